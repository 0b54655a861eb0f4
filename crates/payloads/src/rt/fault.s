// Exception entry, and the way out of `attempt`.

.section .text.fault, "ax"
.code64

// u64 attempt_call(call, data, armed): 0 when call(data) returned, 1 after an exception.
.global attempt_call
attempt_call:
    pushfq
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push [rdx]                          // the attempt around this one
    push rdx
    mov [rdx], rsp
    mov rax, rdi
    mov rdi, rsi
    call rax
    xor eax, eax
attempt_leave:
    pop rdx
    pop [rdx]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    popfq
    ret

.global attempt_recover
attempt_recover:                        // RDI: the stack pointer that was armed
    mov rsp, rdi
    mov eax, 16                         // ring 3 and compatibility mode leave others behind
    mov ds, eax
    mov es, eax
    mov eax, 1
    jmp attempt_leave

.global enter_ring3
enter_ring3:                            // code, stack
    push 0x23
    push rsi
    push 2
    push 0x2b
    push rdi
    iretq

.global enter_compatibility
enter_compatibility:                    // code
    push 0x18
    push rdi
    retfq

// One stub a vector, 16 bytes apart. Vectors with an error code: 8, 10-14, 17, 21.
.balign 16
.global trap_stubs
trap_stubs:
.set vector, 0
.rept 32
.balign 16
    .if ((0x227D00 >> vector) & 1) == 0
    push 0
    .endif
    push vector
    jmp trap_common
.set vector, vector + 1
.endr
.rept 224
.balign 16
    push 0
    push vector
    jmp trap_common
.set vector, vector + 1
.endr
.balign 16

trap_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rbp
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rbp, rsp
    mov rdi, rsp
    and rsp, -16
    call {trap}
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rbp
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
