//! Hardware: probe (facts), plan (pure).
