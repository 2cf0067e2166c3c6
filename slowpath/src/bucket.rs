//! A token bucket in whole numbers: a token is 1,000 parts, and `rate_per_s` parts flow in each millisecond.

const PARTS_PER_TOKEN: u64 = 1000;

#[derive(Clone)]
pub struct Bucket {
    rate_per_s: u64,
    parts_max: u64,
    parts: u64,
    filled_at_ms: u64,
}

impl Bucket {
    /// Full at the start; holds `burst` tokens.
    pub fn new(rate_per_s: u32, burst: u32) -> Self {
        let parts_max = u64::from(burst) * PARTS_PER_TOKEN;
        Self { rate_per_s: u64::from(rate_per_s), parts_max, parts: parts_max, filled_at_ms: 0 }
    }

    /// Whether a token is there; a clock that steps back adds nothing.
    pub fn has_token(&mut self, now_ms: u64) -> bool {
        self.has_tokens(now_ms, 1)
    }

    /// Whether so many are there.
    pub fn has_tokens(&mut self, now_ms: u64, tokens: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.filled_at_ms);
        self.parts = self.parts.saturating_add(passed_ms.saturating_mul(self.rate_per_s)).min(self.parts_max);
        self.filled_at_ms = self.filled_at_ms.max(now_ms);
        self.parts >= tokens * PARTS_PER_TOKEN
    }

    /// Spends a token, after [`Self::has_token`] said that there is one.
    pub fn spend(&mut self) {
        self.spend_all(1);
    }

    /// Spends so many, after [`Self::has_tokens`] said that there are.
    pub fn spend_all(&mut self, tokens: u64) {
        self.parts = self.parts.saturating_sub(tokens * PARTS_PER_TOKEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now_ms: u64, wanted: u32) -> u32 {
        let mut taken = 0;
        for _ in 0..wanted {
            if bucket.has_token(now_ms) {
                bucket.spend();
                taken += 1;
            }
        }
        taken
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(100, 5);
        assert_eq!(taken(&mut bucket, 0, 50), 5);
        assert_eq!(taken(&mut bucket, 9, 50), 0);
        assert_eq!(taken(&mut bucket, 10, 50), 1);
        assert_eq!(taken(&mut bucket, 35, 50), 2, "the half token is kept");
        assert_eq!(taken(&mut bucket, 40, 50), 1);
        assert_eq!(taken(&mut bucket, u64::MAX, 50), 5);
        assert_eq!(taken(&mut bucket, 0, 50), 0, "a clock that steps back gives nothing");
    }
}
