//! Tests of the entry checks.
