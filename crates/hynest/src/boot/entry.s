// From the loader's 32-bit protected mode to 64-bit Rust.
//
// Both loaders leave paging off and interrupts masked. What differs is the
// argument: multiboot2 passes its magic in EAX and the information in EBX, PVH
// passes the start info in EBX. The code below turns both into
// rust_entry(protocol, info).

.section .boot.header, "a"
.balign 8
multiboot2_header:
    .long 0xE85250D6                    // magic
    .long 0                             // architecture: i386, 32-bit protected mode
    .long multiboot2_header_end - multiboot2_header
    .long -(0xE85250D6 + 0 + (multiboot2_header_end - multiboot2_header))
    .balign 8
    .short 6, 0                         // module alignment: start modules on pages
    .long 8
    .balign 8
    .short 0, 0                         // end
    .long 8
multiboot2_header_end:

// XEN_ELFNOTE_PHYS32_ENTRY: where a PVH loader enters.
.section .note.pvh, "a", @note
.balign 4
    .long 4                             // name size
    .long 4                             // descriptor size
    .long 18                            // type
    .asciz "Xen"
    .long pvh_entry

.section .boot.text, "ax"
.code32
.global multiboot2_entry
multiboot2_entry:
    cld
    cmp eax, 0x36D76289
    mov edi, 1                          // Protocol::Multiboot2
    je enter_long_mode
    mov edi, 0                          // entered by something else: Rust refuses it
    jmp enter_long_mode

.global pvh_entry
pvh_entry:
    cld
    mov edi, 2                          // Protocol::Pvh

enter_long_mode:
    mov esi, ebx
    mov esp, offset boot_stack_top
    // Identity map of the first 4 GiB with 2 MiB pages; Rust extends it.
    mov eax, offset boot_pml4
    mov ecx, offset boot_pdpt
    or ecx, 3
    mov [eax], ecx
    mov eax, offset boot_pdpt
    mov ecx, offset boot_pds
    or ecx, 3
    mov ebx, 4
1:  mov [eax], ecx
    add eax, 8
    add ecx, 0x1000
    dec ebx
    jnz 1b
    mov eax, offset boot_pds
    mov ecx, 0x83                       // present, writable, 2 MiB page
    mov ebx, 2048
2:  mov [eax], ecx
    add eax, 8
    add ecx, 0x200000
    dec ebx
    jnz 2b

    mov eax, offset boot_pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                        // PAE
    mov cr4, eax
    mov ecx, 0xC0000080                 // EFER
    rdmsr
    or eax, 0x900                       // LME, NXE
    wrmsr
    mov eax, cr0
    or eax, 0x80010021                  // PG, WP, NE, PE
    and eax, 0x9FFFFFFF                 // caches on: CD and NW clear
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    .byte 0xEA                          // jmp far 8:boot_long_mode
    .long boot_long_mode
    .short 8

.code64
boot_long_mode:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    mov rsp, offset boot_stack_top
    xor ebp, ebp
    mov edi, edi
    mov esi, esi
    call {rust_entry}
    ud2

// An application processor starts here, in real mode, at the page that
// `smp` copied this code to (TRAMPOLINE_PAGE, below 1 MiB). Everything is
// addressed relative to that page.
.balign 16
.code16
.global trampoline_start
trampoline_start:
    cli
    cld
    xor ax, ax
    mov ds, ax
    lgdt [TRAMPOLINE_GDT_POINTER]
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xEA                    // jmp far 24:trampoline_protected
    .long {trampoline} + trampoline_protected - trampoline_start
    .short 24
.code32
trampoline_protected:
    mov ax, 16
    mov ds, ax
    mov ss, ax
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    or eax, 0x80010021
    and eax, 0x9FFFFFFF
    mov cr0, eax
    .byte 0xEA                          // jmp far 8:trampoline_long
    .long {trampoline} + trampoline_long - trampoline_start
    .short 8
.code64
trampoline_long:
    xor eax, eax
    mov fs, ax
    mov gs, ax
    mov es, ax
    // The starter placed this processor's stack and number just below.
    mov rsp, [TRAMPOLINE_STACK]
    mov rdi, [TRAMPOLINE_NUMBER]
    xor ebp, ebp
    mov rax, offset {ap_entry}
    call rax
    ud2
.balign 8
trampoline_gdt_pointer:
    .short 31
    .long {trampoline} + trampoline_gdt - trampoline_start
.balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF            // 8: 64-bit code
    .quad 0x00CF93000000FFFF            // 16: data
    .quad 0x00CF9B000000FFFF            // 24: 32-bit code
.global trampoline_stack
trampoline_stack: .quad 0
.global trampoline_number
trampoline_number: .quad 0
.global trampoline_end
trampoline_end:
// Where these lie once the code has been copied.
.set TRAMPOLINE_GDT_POINTER, {trampoline} + (trampoline_gdt_pointer - trampoline_start)
.set TRAMPOLINE_STACK, {trampoline} + (trampoline_stack - trampoline_start)
.set TRAMPOLINE_NUMBER, {trampoline} + (trampoline_number - trampoline_start)

.section .data
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF            // 8: 64-bit code
    .quad 0x00CF93000000FFFF            // 16: data
boot_gdt_pointer:
    .short 23
    .long boot_gdt
    .long 0

.section .bss.boot, "aw", @nobits
.balign 4096
.global boot_pml4
boot_pml4: .skip 4096
.global boot_pdpt
boot_pdpt: .skip 4096
boot_pds: .skip 16384
// What the boot code needs at most is checked when it is done with it: see boot/stack.rs.
.global boot_stack_guard
boot_stack_guard: .skip 4096
boot_stack: .skip 131072
boot_stack_top:

.text
