//! Compiles the bench's kernel programs, `bpf/*.c`, for the BPF machine, and tells the bench its compiler.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    for name in ["traffic", "socket"] {
        compile(&folder, name);
    }
}

fn compile(folder: &Path, name: &str) {
    let source = folder.join("bpf").join(name).with_extension("c");
    let headers = folder.join("../fastpath/bpf");
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(name).with_extension("o");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the architecture");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-changed={}", headers.join("kernel.h").display());
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let compiled = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg(format!("-I{}", headers.display()))
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-c")
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .status();
    // Counts of instructions are those of one compiler.
    let rustc = env::var_os("RUSTC").and_then(|rustc| Command::new(rustc).arg("--version").output().ok());
    let version = rustc.map(|run| String::from_utf8_lossy(&run.stdout).trim().to_owned()).unwrap_or_default();
    println!("cargo::rustc-env=RUSTC_VERSION={version}");
    if !matches!(compiled, Ok(status) if status.success()) {
        eprintln!(
            "error: {clang} could not compile {}: {compiled:?}. Install clang and linux-libc-dev (./scripts/setup), or name a clang in the environment variable CLANG.",
            source.display()
        );
        exit(1);
    }
}
