//! The library root: stat, list and open beneath it.
