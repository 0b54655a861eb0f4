# The measuring payloads: what an L2 executes while it is measured.
#
# Position-independent 64-bit code that the vmm copies into the guest. Each
# entry point is one operation, repeated. On entry:
#
#   RDI  repetitions, at least 1
#   RSI  where the samples go: RDI + 1 time stamps
#   RBX  the operation's address argument (see each)
#   RSP  a stack
#   interrupts disabled
#
# R12 counts down, R13 walks the samples, R9 keeps the operation's last result
# for the vmm to check. An operation may use the other registers.
#
# Ports by which the guest speaks to the vmm:

    .set PORT_BEGIN, 0xE0       # the measured loop begins
    .set PORT_END, 0xE1         # it has ended
    .set PORT_OUT, 0xE2         # the measured OUT
    .set PORT_ZAP, 0xE3         # drop the page at RBX
    .set PORT_FAULT, 0xE4       # an exception that should not be; AL is its vector

# Interrupt vector of the self-IPI and of the timer.
    .set VECTOR, 0x40

# x2APIC registers as MSRs (SDM volume 3, table 11-6).
    .set MSR_X2APIC_EOI, 0x80B
    .set MSR_X2APIC_SIVR, 0x80F
    .set MSR_X2APIC_LVT_TIMER, 0x832
    .set MSR_X2APIC_SELF_IPI, 0x83F
    .set MSR_TSC_DEADLINE, 0x6E0

.macro stamp
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [r13], rax
.endm

.macro write_msr index, value
    mov ecx, \index
    mov eax, \value
    xor edx, edx
    wrmsr
.endm

# Before the body: touch the pages of samples, so that writing them costs no
# exit in the loop, tell the vmm, take the first time stamp.
.macro begin
    mov r12, rdi
    mov r13, rsi
    xor r9d, r9d
    lea rax, [rsi + rdi * 8]
2:  mov qword ptr [rax], 0
    sub rax, 4096
    cmp rax, rsi
    ja 2b
    mov qword ptr [rsi], 0
    out PORT_BEGIN, al
    stamp
2:
.endm

# After the body: a time stamp for each repetition.
.macro again
    add r13, 8
    stamp
    dec r12
    jnz 2b
    out PORT_END, al
3:  hlt
    jmp 3b
.endm

    .globl vmm_payload_start
vmm_payload_start:

# Exception stubs, 16 bytes each, for vectors 0 to 31.
    .globl vmm_payload_exceptions
    .balign 16, 0xCC
vmm_payload_exceptions:
    .set vector, 0
.rept 32
    .balign 16, 0xCC
    mov al, vector
    jmp vmm_payload_fault
    .set vector, vector + 1
.endr
    .balign 16, 0xCC
vmm_payload_fault:
    out PORT_FAULT, al
3:  hlt
    jmp 3b

# Interrupt VECTOR: end of interrupt, and one more in R14.
    .globl vmm_payload_interrupt
    .balign 16, 0xCC
vmm_payload_interrupt:
    push rax
    push rcx
    push rdx
    write_msr MSR_X2APIC_EOI, 0
    inc r14
    pop rdx
    pop rcx
    pop rax
    iretq

# Nothing: what the loop itself costs.
    .globl vmm_payload_empty
    .balign 16, 0xCC
vmm_payload_empty:
    begin
    again

# CPUID leaf 0.
    .globl vmm_payload_cpuid
    .balign 16, 0xCC
vmm_payload_cpuid:
    begin
    xor eax, eax
    xor ecx, ecx
    cpuid
    again

# RDMSR of IA32_MISC_ENABLE, which KVM emulates.
    .globl vmm_payload_rdmsr
    .balign 16, 0xCC
vmm_payload_rdmsr:
    begin
    mov ecx, 0x1A0
    rdmsr
    again

# WRMSR of IA32_BIOS_SIGN_ID (0), which KVM emulates.
    .globl vmm_payload_wrmsr
    .balign 16, 0xCC
vmm_payload_wrmsr:
    begin
    mov ecx, 0x8B
    xor eax, eax
    xor edx, edx
    wrmsr
    again

# RDMSR of IA32_FS_BASE, which KVM lets through.
    .globl vmm_payload_rdmsr_fs_base
    .balign 16, 0xCC
vmm_payload_rdmsr_fs_base:
    begin
    mov ecx, 0xC0000100
    rdmsr
    again

# RDTSC, which KVM lets through.
    .globl vmm_payload_rdtsc
    .balign 16, 0xCC
vmm_payload_rdtsc:
    begin
    rdtsc
    again

# A KVM hypercall that does nothing: KVM_HC_VAPIC_POLL_IRQ. RCX is 0, which is
# no Hyper-V call code.
    .globl vmm_payload_vmcall
    .balign 16, 0xCC
vmm_payload_vmcall:
    begin
    mov eax, 1
    xor ecx, ecx
    vmcall
    mov r9, rax
    again

# OUT to a port of the vmm.
    .globl vmm_payload_out
    .balign 16, 0xCC
vmm_payload_out:
    begin
    out PORT_OUT, al
    again

# A read of RBX, where no memory is.
    .globl vmm_payload_mmio_read
    .balign 16, 0xCC
vmm_payload_mmio_read:
    begin
    mov eax, [rbx]
    again

# HLT with interrupts disabled; the vmm goes on.
    .globl vmm_payload_hlt
    .balign 16, 0xCC
vmm_payload_hlt:
    begin
    hlt
    again

# The first write to the next page, from RBX on.
    .globl vmm_payload_touch
    .balign 16, 0xCC
vmm_payload_touch:
    begin
    mov qword ptr [rbx], rbx
    add rbx, 4096
    again

# The page at RBX is dropped by the vmm, then written.
    .globl vmm_payload_zap
    .balign 16, 0xCC
vmm_payload_zap:
    mov qword ptr [rbx], rbx
    begin
    out PORT_ZAP, al
    mov qword ptr [rbx], rbx
    again

# An x2APIC self-IPI, until its handler has run.
    .globl vmm_payload_self_ipi
    .balign 16, 0xCC
vmm_payload_self_ipi:
    write_msr MSR_X2APIC_SIVR, 0x1FF
    xor r14d, r14d
    xor r15d, r15d
    sti
    begin
    write_msr MSR_X2APIC_SELF_IPI, VECTOR
4:  cmp r14, r15
    je 4b
    mov r15, r14
    again

# The TSC-deadline timer, due RBX ticks from now, and HLT until its handler has
# run. STI keeps interrupts off for one instruction more: the HLT.
    .globl vmm_payload_tsc_deadline
    .balign 16, 0xCC
vmm_payload_tsc_deadline:
    write_msr MSR_X2APIC_SIVR, 0x1FF
    write_msr MSR_X2APIC_LVT_TIMER, 0x40000 + VECTOR
    xor r14d, r14d
    xor r15d, r15d
    begin
    rdtsc
    add eax, ebx
    adc edx, 0
    mov ecx, MSR_TSC_DEADLINE
    wrmsr
4:  sti
    hlt
    cli
    cmp r14, r15
    je 4b
    mov r15, r14
    again

# HvFlushVirtualAddressSpace with its input at RBX: the hypercall page is the page
# before it. Slow call, code 2.
    .globl vmm_payload_hv_flush
    .balign 16, 0xCC
vmm_payload_hv_flush:
    mov ecx, 0x40000000         # HV_X64_MSR_GUEST_OS_ID: an open-source guest
    mov eax, 1
    mov edx, 0x81000000
    wrmsr
    lea eax, [ebx - 4096 + 1]   # HV_X64_MSR_HYPERCALL: this page, enabled
    xor edx, edx
    mov ecx, 0x40000001
    wrmsr
    lea r11, [rbx - 4096]
    mov rax, [rbx]              # mapped, as the input is of a guest that writes it itself
    begin
    mov ecx, 2
    mov rdx, rbx
    xor r8d, r8d
    call r11
    mov r9, rax
    again

    .globl vmm_payload_end
vmm_payload_end:
