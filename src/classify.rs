//! Rows and observations in, file events and row updates out.
