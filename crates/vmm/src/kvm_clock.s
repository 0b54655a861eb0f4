# The algorithm of the vDSO on the page that KVM fills in (struct pvclock_vcpu_time_info
# of the KVM documentation), for what an L2's vCPU executes.

    .set MSR_KVM_SYSTEM_TIME_NEW, 0x4b564d01
    .set VERSION, 0             # odd while the page changes
    .set TSC_TIMESTAMP, 8
    .set SYSTEM_TIME, 16
    .set TSC_TO_SYSTEM_MUL, 24
    .set TSC_SHIFT, 28
    .set PAGE_FLAGS, 29
    .set TSC_STABLE, 1

# Has KVM fill in the page at RBX, below 4 GiB. Takes RAX, RCX and RDX.
    .macro enable_kvm_clock
    mov ecx, MSR_KVM_SYSTEM_TIME_NEW
    lea eax, [ebx + 1]
    xor edx, edx
    wrmsr
    .endm

# Reads the page at RBX: RAX is the time in nanoseconds, DL the page's flags. Takes RCX and R11.
    .macro read_kvm_clock
71: mov r11d, [rbx + VERSION]
    test r11d, 1
    jnz 71b
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, [rbx + TSC_TIMESTAMP]
    mov cl, [rbx + TSC_SHIFT]
    test cl, cl
    js 72f
    shl rax, cl
    jmp 73f
72: neg cl
    shr rax, cl
73: mov edx, [rbx + TSC_TO_SYSTEM_MUL]
    mul rdx
    shrd rax, rdx, 32
    add rax, [rbx + SYSTEM_TIME]
    mov dl, [rbx + PAGE_FLAGS]
    cmp r11d, [rbx + VERSION]
    jne 71b
    .endm
