# What an L2's vCPU executes while its clocks are compared with L1's: it reads
# kvm-clock, its TSC and the reference TSC page of Hyper-V's interface without
# pause, each by the algorithm of its documentation.
#
# Position-independent 64-bit code that the vmm copies into the guest. On entry:
#
#   RDI  how often to read between two samples, at least 1
#   RBX  the page of this vCPU's kvm-clock
#   RBP  the reference TSC page
#   RSI  this vCPU's findings
#   R15  the latest readings of all vCPUs
#   interrupts disabled
#
# It goes on for ever: RDI readings, OUT to PORT_BEGIN, one reading, OUT to PORT_END.

    .set PORT_BEGIN, 0xE0       # one reading follows
    .set PORT_END, 0xE1         # it has been done

    .set MSR_GUEST_OS_ID, 0x40000000
    .set MSR_TIME_REF_COUNT, 0x40000020
    .set MSR_REFERENCE_TSC, 0x40000021
    .set SEQUENCE, 0            # 0 while the page must not be used
    .set SCALE, 8
    .set TIME_OFFSET, 16

    # The latest readings and, of a vCPU's findings, those that went back.
    .set KVM_CLOCK, 0
    .set TSC, 8
    .set REFERENCE, 16
    # More findings.
    .set NOW, 24                # what was read last, as above
    .set READS, 48
    .set UNSTABLE, 56           # kvm-clock's page did not say that all vCPUs have the same
    .set INVALID, 64            # the reference TSC page could not be used

    # RAX has been read of the clock AT, and R10 before that: the latest of all vCPUs.
    .macro saw at
    mov [rsi + NOW + \at], rax
    cmp rax, r10
    jb 8f
    mov [r15 + \at], rax
    jmp 9f
8:  inc qword ptr [rsi + \at]
9:
    .endm

    .globl vmm_clocks_start
vmm_clocks_start:
    enable_kvm_clock
    mov ecx, MSR_GUEST_OS_ID    # else there is no reference TSC page
    mov eax, 1
    xor edx, edx
    wrmsr
    mov ecx, MSR_REFERENCE_TSC
    lea eax, [ebp + 1]
    xor edx, edx
    wrmsr
    xor r13d, r13d              # these are no sample
1:  mov r12, rdi
2:  mov r10, [r15 + KVM_CLOCK]
    read_kvm_clock
    test dl, TSC_STABLE
    jnz 6f
    inc qword ptr [rsi + UNSTABLE]
6:  saw KVM_CLOCK
    mov r10, [r15 + TSC]
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    saw TSC
    mov r10, [r15 + REFERENCE]
3:  mov r11d, [rbp + SEQUENCE]
    test r11d, r11d
    jz 4f
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    mul qword ptr [rbp + SCALE]
    mov rax, rdx
    add rax, [rbp + TIME_OFFSET]
    cmp r11d, [rbp + SEQUENCE]
    jne 3b
    jmp 5f
4:  inc qword ptr [rsi + INVALID]
    mov ecx, MSR_TIME_REF_COUNT
    rdmsr
    shl rdx, 32
    or rax, rdx
5:  saw REFERENCE
    inc qword ptr [rsi + READS]
    dec r12
    jnz 2b
    xor r13d, 1
    jz 7f
    out PORT_BEGIN, al
    mov r12d, 1
    jmp 2b
7:  out PORT_END, al
    jmp 1b

    .globl vmm_clocks_end
vmm_clocks_end:
