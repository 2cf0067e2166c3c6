//! Which entries nobody has yet: a byte of each, so that a look at one is a load and an addition and nothing else.

/// Of a table of at most `N` entries, `N` being a power of two.
pub(super) struct Free<const N: usize> {
    /// 1 for those that are free, and behind the table.
    entries: [u8; N],
    size: u16,
    count: usize,
}

impl<const N: usize> Free<N> {
    /// All of so many.
    pub fn all(size: u16) -> Self {
        Self { entries: [1; N], size, count: size.into() }
    }

    /// 1 if it is free, else 0.
    #[inline]
    pub fn has(&self, entry: u16) -> usize {
        self.entries[usize::from(entry) % N].into()
    }

    /// Takes one that is free.
    #[inline]
    pub fn take(&mut self, entry: u16) {
        self.entries[usize::from(entry) % N] = 0;
        self.count -= 1;
    }

    /// Of the table.
    pub fn size(&self) -> u16 {
        self.size
    }

    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0..self.size).filter(|entry| self.has(*entry) == 1)
    }
}
