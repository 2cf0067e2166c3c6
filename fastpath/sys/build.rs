//! Builds the kernel side: writes the shared structures as C and compiles `fastpath/bpf/*.c` for the BPF machine.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs};

/// One object per file; the loader embeds them by these names.
const PROGRAMS: [&str; 5] = ["steer", "funnel", "pod", "loopback", "deliver"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let source =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("../bpf");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    if let Err(error) = fs::write(out.join("layout.h"), atalho_layout::c_header()) {
        fail(&format!("cannot write layout.h into {}: {error}", out.display()));
    }
    for program in PROGRAMS {
        compile(&source.join(format!("{program}.c")), &out);
    }
}

fn compile(source: &Path, out: &Path) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let object = out.join(source.file_name().expect("a file")).with_extension("o");
    // The kernel's headers include asm/types.h, which Debian keeps in the machine's own folder.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the architecture");
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg(format!("-I{}", out.display()))
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "{clang} could not compile {} ({status}). If a header is missing, install linux-libc-dev.",
            source.display()
        )),
        Err(error) => fail(&format!(
            "cannot run {clang} to compile {}: {error}. Install clang (apt-get install clang linux-libc-dev), or name one in the environment variable CLANG.",
            source.display()
        )),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1);
}
