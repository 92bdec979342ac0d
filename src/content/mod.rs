//! One path as an observation.
