//! Cores, their siblings and NUMA nodes from sysfs (Linux Documentation/ABI/stable/sysfs-devices-system-cpu), and the
//! affinity mask of this thread.

use std::fs;
use std::path::Path;

use crate::cpu_list;
use crate::facts::Core;

/// The online cores below `cpu_dir` (/sys/devices/system/cpu); `allowed` is the affinity mask.
pub fn read(cpu_dir: &Path, allowed: &[u32]) -> std::io::Result<Vec<Core>> {
    let online = cpu_list::parse(&fs::read_to_string(cpu_dir.join("online"))?);
    let isolated = cpu_list::parse(&fs::read_to_string(cpu_dir.join("isolated")).unwrap_or_default());
    let core = |number: u32| {
        let dir = cpu_dir.join(format!("cpu{number}"));
        let text = |file: &str| fs::read_to_string(dir.join("topology").join(file)).unwrap_or_default();
        let mut siblings = cpu_list::parse(&text("thread_siblings_list"));
        if siblings.is_empty() {
            siblings.push(number);
        }
        Core {
            number,
            numa_node: numa_node(&dir),
            package: text("physical_package_id").trim().parse().unwrap_or(0),
            siblings,
            allowed: allowed.contains(&number),
            isolated: isolated.contains(&number),
        }
    };
    Ok(online.into_iter().map(core).collect())
}

/// A core's directory holds a link `nodeN` where the kernel knows nodes.
fn numa_node(dir: &Path) -> Option<u32> {
    let entries = fs::read_dir(dir).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// The cores on which this thread may run.
pub fn allowed() -> std::io::Result<Vec<u32>> {
    Ok(allowed_in(&fs::read_to_string("/proc/thread-self/status")?))
}

/// The mask in a text of the form of /proc/PID/status (proc_pid_status(5)).
fn allowed_in(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cpu_list::parse(line.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_stands_in_the_status() {
        assert_eq!(allowed_in("Name:\tx\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1,4\n"), [0, 1, 4]);
        assert!(allowed_in("").is_empty());
    }

    #[test]
    fn this_machine_has_a_core_on_which_this_thread_runs() {
        let allowed = allowed().unwrap();
        let cores = read(Path::new("/sys/devices/system/cpu"), &allowed).unwrap();
        assert!(cores.iter().any(|core| core.allowed));
        assert!(cores.iter().all(|core| core.siblings.contains(&core.number)));
    }
}
