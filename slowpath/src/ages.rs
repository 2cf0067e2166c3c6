//! Things in the order of their age, counted by the port that they came in by, so that the port with most of them can give
//! way.

use std::collections::BTreeMap;

pub struct Ages<Age, T> {
    /// By port (kernel interface index), each in order.
    ports: BTreeMap<u32, BTreeMap<Age, T>>,
    len: usize,
}

impl<Age, T> Default for Ages<Age, T> {
    fn default() -> Self {
        Self { ports: BTreeMap::new(), len: 0 }
    }
}

impl<Age: Ord + Copy, T> Ages<Age, T> {
    pub fn len(&self) -> usize {
        self.len
    }

    /// `age` must be there once.
    pub fn insert(&mut self, port: u32, age: Age, what: T) {
        self.len += usize::from(self.ports.entry(port).or_default().insert(age, what).is_none());
    }

    pub fn remove(&mut self, port: u32, age: Age) -> Option<T> {
        let ages = self.ports.get_mut(&port)?;
        let what = ages.remove(&age)?;
        if ages.is_empty() {
            self.ports.remove(&port);
        }
        self.len -= 1;
        Some(what)
    }

    /// Takes out the oldest of all, if it is not younger than `age`.
    pub fn pop_until(&mut self, age: Age) -> Option<T> {
        let (oldest, port) = self.ports.iter().filter_map(|(port, ages)| Some((*ages.keys().next()?, *port))).min()?;
        if oldest <= age { self.remove(port, oldest) } else { None }
    }

    /// Takes out the oldest of the port that has most.
    pub fn pop_oldest_of_most(&mut self) -> Option<T> {
        let (port, ages) = self.ports.iter().max_by_key(|(_, ages)| ages.len())?;
        let (port, age) = (*port, *ages.keys().next()?);
        self.remove(port, age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_with_most_gives_way_and_age_decides_among_its_own() {
        let mut ages = Ages::default();
        for (port, age) in [(1, 10), (2, 5), (2, 20), (2, 30), (1, 40)] {
            ages.insert(port, age, (port, age));
        }
        assert_eq!(ages.pop_oldest_of_most(), Some((2, 5)));
        assert_eq!(ages.remove(2, 20), Some((2, 20)));
        assert_eq!(ages.pop_oldest_of_most(), Some((1, 10)), "two to one");
        assert_eq!(ages.pop_until(29), None);
        assert_eq!(ages.pop_until(30), Some((2, 30)));
        assert_eq!(ages.pop_until(99), Some((1, 40)));
        assert_eq!((ages.pop_until(99), ages.len()), (None, 0));
    }
}
