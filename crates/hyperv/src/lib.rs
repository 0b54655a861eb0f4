//! The Hv#1 server and client: MSRs, hypercalls, reference clock, synthetic timers.
#![no_std]
