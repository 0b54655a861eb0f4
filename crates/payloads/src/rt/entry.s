// From the loader's 32-bit protected mode, or a start-up IPI's real mode, to Rust.

.section .boot.header, "a"
.balign 8
multiboot2_header:
    .long 0xE85250D6
    .long 0                             // i386, 32-bit protected mode
    .long multiboot2_header_end - multiboot2_header
    .long -(0xE85250D6 + 0 + (multiboot2_header_end - multiboot2_header))
    .short 0, 0
    .long 8
multiboot2_header_end:

// XEN_ELFNOTE_PHYS32_ENTRY: where a PVH loader enters.
.section .note.pvh, "a", @note
.balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry

.section .boot.text, "ax"
.code32
.global multiboot2_entry
multiboot2_entry:
    mov edi, 0                          // MULTIBOOT2
    jmp enter_long_mode
.global pvh_entry
pvh_entry:
    mov edi, 1                          // PVH
enter_long_mode:
    cld
    mov esi, ebx
    mov esp, offset boot_stack_top
    // The first 4 GiB one to one in 2 MiB pages, open to ring 3.
    mov eax, offset boot_pdpt
    or eax, 7
    mov [boot_pml4], eax
    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 12
    add eax, offset boot_pds
    or eax, 7
    mov [boot_pdpt + ecx * 8], eax
    inc ecx
    cmp ecx, 4
    jb 1b
    xor ecx, ecx
2:  mov eax, ecx
    shl eax, 21
    or eax, 0x87                        // present, writable, user, 2 MiB page
    mov [boot_pds + ecx * 8], eax
    inc ecx
    cmp ecx, 2048
    jb 2b
    lgdt [boot_gdt_pointer]
    call long_mode_registers
    .byte 0xEA                          // jmp far 8:boot_long_mode
    .long boot_long_mode
    .short 8

long_mode_registers:
    mov eax, cr4
    or eax, 0x20                        // PAE
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xC0000080                 // EFER
    rdmsr
    or eax, 0x100                       // LME
    wrmsr
    mov eax, cr0
    or eax, 0x80010021                  // PG, WP, NE, PE
    and eax, 0x9FFFFFFF
    mov cr0, eax
    ret

.code64
boot_long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_top
    xor ebp, ebp
    mov edi, edi
    mov esi, esi
    call {rust_entry}
    ud2

// A second processor begins here, copied to the page {trampoline}.
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
    .byte 0x66, 0xEA
    .long {trampoline} + trampoline_protected - trampoline_start
    .short 24
.code32
trampoline_protected:
    mov eax, 16
    mov ds, eax
    mov ss, eax
    mov esp, {trampoline} + 0x1000
    mov eax, offset long_mode_registers
    call eax
    .byte 0xEA
    .long {trampoline} + trampoline_long - trampoline_start
    .short 8
.code64
trampoline_long:
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov eax, 16
    mov es, eax
    mov rsp, offset ap_stack_top
    xor ebp, ebp
    mov rax, offset {ap_entry}
    call rax
    ud2
.balign 8
trampoline_gdt_pointer:
    .short 31
    .long boot_gdt
.global trampoline_end
trampoline_end:
// Where this lies once the code has been copied.
.set TRAMPOLINE_GDT_POINTER, {trampoline} + (trampoline_gdt_pointer - trampoline_start)

.section .data
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF            // 8: 64-bit code
    .quad 0x00CF93000000FFFF            // 16: data
    .quad 0x00CF9B000000FFFF            // 24: 32-bit code
boot_gdt_pointer:
    .short 31
    .long boot_gdt

.section .bss.boot, "aw", @nobits
.balign 4096
.global boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
.global boot_pds
boot_pds: .skip 16384
boot_stack: .skip 65536
boot_stack_top:
ap_stack: .skip 65536
ap_stack_top:

.text
