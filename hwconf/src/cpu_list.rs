//! The kernel's list format, `0-3,8` (Linux Documentation/admin-guide/kernel-parameters.rst, "cpu lists").

/// The numbers in `list`, in its order; what is not a number or a range is left out, and so is a range beyond 8,192
/// entries (the kernel's largest NR_CPUS), which no kernel writes.
pub fn parse(list: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>())
            && last.saturating_sub(first) < 8192
        {
            numbers.extend(first..=last);
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lists_and_ranges() {
        assert_eq!(parse("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse("5"), [5]);
        assert!(parse("\n").is_empty());
        assert_eq!(parse("1,x,3-2,0-4294967295"), [1]);
    }
}
