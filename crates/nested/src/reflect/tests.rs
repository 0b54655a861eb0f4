//! Tests of who handles an exit.
