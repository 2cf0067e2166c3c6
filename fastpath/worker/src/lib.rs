//! The loop that joins ports and engine.
