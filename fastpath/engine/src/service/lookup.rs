//! A table of choice as it is kept: which endpoint stands at which place. Nearly all Services have so few that a byte names
//! one, and of ten thousand tables half the memory is neither written at a node's start nor read by its new flows.

/// Indexes of endpoints by place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lookup {
    indexes: Box<[u8]>,
    /// Two bytes each, the lower one first: of more than 256.
    is_wide: bool,
}

impl From<&[u16]> for Lookup {
    fn from(indexes: &[u16]) -> Self {
        let bytes: Option<_> = indexes.iter().map(|index| u8::try_from(*index).ok()).collect();
        match bytes {
            Some(indexes) => Self { indexes, is_wide: false },
            None => Self { indexes: indexes.iter().flat_map(|index| index.to_le_bytes()).collect(), is_wide: true },
        }
    }
}

impl Lookup {
    /// Places.
    #[inline]
    pub fn len(&self) -> usize {
        self.indexes.len() >> usize::from(self.is_wide)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// The index at a place.
    #[inline]
    pub fn at(&self, place: usize) -> usize {
        match &self.indexes[place << usize::from(self.is_wide)..] {
            [low, high, ..] if self.is_wide => u16::from_le_bytes([*low, *high]).into(),
            [index, ..] => (*index).into(),
            [] => 0,
        }
    }

    /// The line of memory that [`Self::at`] reads.
    #[inline]
    pub fn line(&self, place: usize) -> *const u8 {
        self.indexes[place << usize::from(self.is_wide)..].as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_come_back_as_they_went_in_and_small_ones_take_a_byte() {
        for indexes in [vec![0_u16, 255, 7], vec![0, 256, 7], vec![65_534], vec![]] {
            let lookup = Lookup::from(&indexes[..]);
            assert_eq!(lookup.is_wide, indexes.iter().any(|index| *index > 255));
            let back: Vec<usize> = (0..lookup.len()).map(|place| lookup.at(place)).collect();
            assert_eq!(back, indexes.iter().map(|index| usize::from(*index)).collect::<Vec<_>>());
            assert_eq!(lookup.is_empty(), indexes.is_empty());
        }
    }
}
