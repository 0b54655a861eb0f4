# What an L2's vCPU executes while its reads of kvm-clock are counted.
#
# Position-independent 64-bit code that the vmm copies into the guest. On entry:
#
#   RDI  how often to read, at least 1
#   RBX  the page of this vCPU's clock
#   R15  a word that all vCPUs share: the last time that any of them read
#   interrupts disabled
#
# At the end:
#
#   R8   the first time that was read, in nanoseconds
#   R9   the last
#   R13  how often it was earlier than what some vCPU had read before
#   R14  how often the page did not say that it is the same on all vCPUs

    .set PORT_BEGIN, 0xE0       # the reads begin
    .set PORT_END, 0xE1         # they have ended

    .globl vmm_clock_start
vmm_clock_start:
    enable_kvm_clock
    xor r8d, r8d
    xor r13d, r13d
    xor r14d, r14d
    mov rax, [rbx]
    lock or qword ptr [r15], 0  # both are mapped for writing
    out PORT_BEGIN, al
1:  mov r10, [r15]
    read_kvm_clock
    test dl, TSC_STABLE
    jnz 5f
    inc r14
5:  cmp rax, r10
    jae 6f
    inc r13
6:  mov [r15], rax
    mov r9, rax
    test r8, r8
    cmovz r8, rax
    dec rdi
    jnz 1b
    out PORT_END, al
7:  hlt
    jmp 7b

    .globl vmm_clock_end
vmm_clock_end:
