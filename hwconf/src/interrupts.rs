//! The interrupts of a device: /proc/interrupts joined with the device's list.

use std::fs;

use crate::cpu_list;
use crate::facts::Irq;

/// The interrupts with a number in `numbers`, or whose name contains `interface` where the device has no list of its own.
pub fn read(numbers: &[u32], interface: &str) -> Vec<Irq> {
    let table = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let mut irqs = parse(&table);
    irqs.retain(
        |irq| {
            if numbers.is_empty() { names_interface(&irq.name, interface) } else { numbers.contains(&irq.number) }
        },
    );
    for irq in &mut irqs {
        let path = format!("/proc/irq/{}/effective_affinity_list", irq.number);
        irq.cores = cpu_list::parse(&fs::read_to_string(path).unwrap_or_default());
    }
    irqs
}

/// Drivers write the interface as a word of the name: `eth0-TxRx-3`, `mlx5_comp0@pci:...` not. `eth1` is not `eth10`.
fn names_interface(name: &str, interface: &str) -> bool {
    name.split(|c: char| !c.is_alphanumeric()).any(|word| word == interface)
}

/// The numbered lines of /proc/interrupts (proc_interrupts(5)): number, a count per online core, controller, hardware
/// number, name. Affinity stands elsewhere and is left empty.
fn parse(table: &str) -> Vec<Irq> {
    let cores = table.lines().next().unwrap_or_default().split_whitespace().count();
    let line = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let number = number.trim().parse().ok()?;
        let count = rest.split_whitespace().take(cores).filter_map(|field| field.parse::<u64>().ok()).sum();
        // Shared interrupts name several devices, separated by a comma and a space.
        let name = rest.split_whitespace().skip(cores + 2).collect::<Vec<_>>().join(" ");
        Some(Irq { number, name, cores: Vec::new(), count })
    };
    table.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "           CPU0       CPU1       \n \
         24:          1          0  IO-APIC   5-edge      ACPI:Ged\n \
         38:          2         9631 PCI-MSIX-0000:00:03.0   1-edge      eth1-TxRx-0\n \
         39:          0          0 PCI-MSIX-0000:00:03.0   2-edge      eth10-TxRx-0\n\
         NMI:          0          0   Non-maskable interrupts\n";

    #[test]
    fn counts_are_summed_and_names_kept() {
        let irqs = parse(TABLE);
        let first_two: Vec<_> = irqs.iter().map(|irq| (irq.number, irq.count, irq.name.as_str())).collect();
        assert_eq!(first_two, [(24, 1, "ACPI:Ged"), (38, 9633, "eth1-TxRx-0"), (39, 0, "eth10-TxRx-0")]);
    }

    #[test]
    fn an_interface_is_a_whole_word_of_the_name() {
        assert!(names_interface("eth1-TxRx-0", "eth1"));
        assert!(!names_interface("eth10-TxRx-0", "eth1"));
    }
}
