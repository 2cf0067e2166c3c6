//! `atalho uninstall`: everything that outlives a daemon goes: links, maps, funnel, routes, socket.

use anyhow::Context;
use atalho_control::config::Config;

/// Takes it all away and says what it was; a node that has nothing is no error.
pub fn uninstall(config: &Config) -> anyhow::Result<()> {
    let node = &config.node;
    let removed = atalho_sys::bpf::uninstall(&node.bpffs, &node.name)?;
    for line in &removed {
        println!("removed {line}");
    }
    let [f0, f1] = &config.funnel.names;
    atalho_control::node::teardown(f0, f1)?;
    println!("removed the funnel {f0}/{f1} and its routes, where they were");
    let socket = node.run_dir.join(format!("{}.sock", node.name));
    match std::fs::remove_file(&socket) {
        Ok(()) => println!("removed {}", socket.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("remove {}", socket.display())),
    }
    Ok(())
}
