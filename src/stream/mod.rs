//! The combinators of the chain, one a file, behind one extension trait.
