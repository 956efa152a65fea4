//! Published vectors, and tokens that nobody should take.
