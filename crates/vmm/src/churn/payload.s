# What an L2's vCPU executes while its memory is changed under it: it takes
# batches of commands from its mailbox, without an exit while there are some.
#
# Position-independent 64-bit code that the vmm copies into the guest. On entry
# RDI is the address of the vCPU's mailbox; interrupts are disabled.
#
# The mailbox, in 64-bit words:

    .set SEQUENCE, 0x00         # the vmm: number of the batch to do
    .set DONE, 0x08             # the guest: number of the batch that is done
    .set SPINS, 0x10            # the vmm: how often to look before an exit
    .set COUNT, 0x18            # the vmm: commands in the batch; 0 is the end
    .set WRONG, 0x20            # the guest: address of the first wrong word
    .set FOUND, 0x28            # the guest: what was there
    .set CHECKSUM, 0x30         # the guest: of all that the batch read
    .set COMMANDS, 0x40         # the vmm: page | task, first word, step

    .set TASK_FILL, 1           # the task is to fill the page; else to check it
    .set PORT_YIELD, 0xE8       # nothing to do for long

    .globl vmm_churn_start
vmm_churn_start:
    xor r8d, r8d
1:  mov rcx, [rdi + SPINS]
2:  mov rax, [rdi + SEQUENCE]
    cmp rax, r8
    jne 3f
    pause
    dec rcx
    jnz 2b
    out PORT_YIELD, al
    jmp 1b

3:  mov r8, rax
    xor r9d, r9d
    mov rbx, [rdi + COUNT]
    lea rsi, [rdi + COMMANDS]
    test rbx, rbx
    jnz 4f
    hlt

4:  mov r13, [rsi]
    mov r11, [rsi + 8]
    mov r12, [rsi + 16]
    test r13, TASK_FILL
    jnz 6f
    lea r14, [r13 + 4096]
5:  mov rax, [r13]
    rol r9, 1
    add r9, rax
    cmp rax, r11
    jne 8f
    add r11, r12
    add r13, 8
    cmp r13, r14
    jne 5b
    jmp 7f
6:  dec r13
    lea r14, [r13 + 4096]
9:  mov [r13], r11
    add r11, r12
    add r13, 8
    cmp r13, r14
    jne 9b
7:  add rsi, 24
    dec rbx
    jnz 4b
    jmp 10f
8:  mov [rdi + WRONG], r13
    mov [rdi + FOUND], rax
10: mov [rdi + CHECKSUM], r9
    mov [rdi + DONE], r8
    jmp 1b

    .globl vmm_churn_end
vmm_churn_end:
