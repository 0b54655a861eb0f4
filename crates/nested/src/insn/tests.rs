//! Tests of the VMX instructions.
