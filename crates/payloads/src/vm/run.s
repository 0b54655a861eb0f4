// Into L2 and back.

.section .text.run, "ax"
.code64

// u64 vm_enter(registers, launch, area): bit 63 after a VM exit, else the flags.
// `area` is where HOST_RSP points: the address of the registers, then the stack pointer.
.global vm_enter
vm_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdx], rdi
    mov [rdx + 8], rsp
    test rsi, rsi
    mov rax, [rdi]
    mov rcx, [rdi + 8]
    mov rdx, [rdi + 16]
    mov rbx, [rdi + 24]
    mov rbp, [rdi + 40]
    mov rsi, [rdi + 48]
    mov r8, [rdi + 64]
    mov r9, [rdi + 72]
    mov r10, [rdi + 80]
    mov r11, [rdi + 88]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    mov rdi, [rdi + 56]
    jz 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  pushfq
    pop rax
    btr rax, 63
    jmp vm_leave

.global vm_exit
vm_exit:
    push rdi
    mov rdi, [rsp + 8]
    mov [rdi], rax
    mov [rdi + 8], rcx
    mov [rdi + 16], rdx
    mov [rdi + 24], rbx
    mov [rdi + 40], rbp
    mov [rdi + 48], rsi
    mov [rdi + 64], r8
    mov [rdi + 72], r9
    mov [rdi + 80], r10
    mov [rdi + 88], r11
    mov [rdi + 96], r12
    mov [rdi + 104], r13
    mov [rdi + 112], r14
    mov [rdi + 120], r15
    pop [rdi + 56]
    mov rsp, [rsp + 8]
    mov rax, 0x8000000000000000
vm_leave:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

// L2's exception and interrupt handlers: 8 bytes each, VMCALL and back. L1 tells the vector
// by RIP.
.balign 16
.global l2_handlers
l2_handlers:
.rept 256
.balign 8
    vmcall
    iretq
.endr
