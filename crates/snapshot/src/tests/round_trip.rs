//! What is written is what is read.

use proptest::collection::vec as vec_of;
use proptest::prelude::*;

use super::*;

/// Stretches of pages: how many zero ones, how many others, a byte of these, and how many after
/// them that repeat one.
fn stretches() -> impl Strategy<Value = Vec<(usize, usize, usize, u8, usize)>> {
    let length = || prop_oneof![0..4usize, 0..300usize];
    vec_of((length(), length(), 0..PAGE, any::<u8>(), length()), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn of_any_sparse_memory(machine in vec_of(any::<u8>(), 0..10_000), stretches in stretches()) {
        let mut memory = Vec::new();
        let mut data_pages = 0;
        for (zero, other, place, byte, filled) in stretches {
            memory.resize(memory.len() + zero * PAGE, 0);
            for _ in 0..other {
                let page = memory.len();
                memory.resize(page + PAGE, 0);
                memory[page + place] = byte;
                data_pages += u64::from(byte != 0);
            }
            memory.resize(memory.len() + filled * PAGE, byte.rotate_left(1));
        }
        let file = saved(&machine, &memory);
        let header = *Reader::open(Medium::holding(file.clone())).unwrap().header();
        prop_assert_eq!(header.data_pages, data_pages);
        prop_assert_eq!(file.len() as u64, header.pages() * PAGE as u64);
        prop_assert_eq!(restored(&file, memory.len()), Ok((machine, memory)));
        prop_assert_eq!(fault(&file, header.memory_bytes as usize), None);
    }
}

#[test]
fn every_other_page_filled_needs_no_more_than_the_most_pages() {
    let mut memory = memory_with(2000, 0..2000);
    for (i, page) in memory.chunks_exact_mut(2 * PAGE).enumerate() {
        page[..PAGE].fill(i as u8 | 1);
    }
    let file = saved(&[1], &memory);
    assert_eq!(restored(&file, memory.len()), Ok((vec![1], memory)));
}

#[test]
fn a_full_memory_needs_the_most_pages() {
    let memory = memory_with(600, 0..600);
    let file = saved(&[1], &memory);
    assert_eq!(
        file.len() as u64,
        most_pages(1, memory.len() as u64) * PAGE as u64
    );
    // Header, machine, three blocks' tables, end.
    assert_eq!(file.len(), (1 + 1 + 600 + 3 + 1) * PAGE);
}

#[test]
fn the_file_is_as_documented() {
    let mut memory = memory_with(9, [2, 3, 7]);
    memory[4 * PAGE..6 * PAGE].fill(0xCC);
    let file = saved(b"machine", &memory);
    let number = |page: usize, at: usize| {
        u64::from_le_bytes(file[page * PAGE + at..][..8].try_into().unwrap())
    };
    let sum = |bytes: &[u8]| {
        let number = |bytes: &[u8]| u128::from(u64::from_le_bytes(bytes.try_into().unwrap()));
        bytes.chunks(16).fold(0x27D4_EB2F_1656_67C5, |s, pair| {
            let a = number(&pair[..8]) ^ 0x9E37_79B1_85EB_CA87;
            let product = (s ^ a) * (s ^ number(&pair[8..]));
            (product & u128::from(u64::MAX)) ^ (product >> 64)
        }) as u64
    };
    let page = |page: usize| &file[page * PAGE..][..PAGE];
    assert_eq!(file.len(), 7 * PAGE);
    assert_eq!(&file[..8], b"HYNSTATE");
    let header: Vec<u64> = (8..104).step_by(8).map(|at| number(0, at)).collect();
    let memory_bytes = memory.len() as u64;
    let expected = [
        sum(&page(0)[16..]),
        2,
        7,
        1,
        7,
        sum(page(1)),
        2,
        memory_bytes,
        3,
        1,
        number(6, 8),
        0,
    ];
    assert_eq!(header, expected);
    assert_eq!(&page(1)[..8], b"machine\0");

    assert_eq!(&page(2)[..8], b"HYNBLOCK");
    let table: Vec<u64> = (8..144).step_by(8).map(|at| number(2, at)).collect();
    let data = &file[3 * PAGE..6 * PAGE];
    let poison = 0xCCCC_CCCC_CCCC_CCCC;
    let own = sum(&page(2)[16..]);
    let runs = [2, 2, 0, 4, 2, poison, 7, 1, 0, 0];
    let expected = [&[own, 0, sum(data), 3, 3, 0, 0], &runs[..]].concat();
    assert_eq!(table, expected);
    assert_eq!(data[..2 * PAGE], memory[2 * PAGE..4 * PAGE]);
    assert_eq!(data[2 * PAGE..], memory[7 * PAGE..8 * PAGE]);

    let own = [number(2, 8).to_le_bytes(), [0; 8]].concat();
    let end: Vec<u64> = (8..56).step_by(8).map(|at| number(6, at)).collect();
    assert_eq!(end, [sum(&page(6)[16..]), 1, sum(&own), 0, 0, 0]);
}

#[test]
fn what_lies_behind_the_file_does_not_matter_to_a_reader() {
    let (machine, memory) = example();
    let mut file = saved(&machine, &memory);
    file.resize(file.len() + 3 * PAGE, 0xEE);
    assert_eq!(restored(&file, memory.len()), Ok((machine, memory)));
}

#[test]
fn memory_that_is_zero_already_is_left_alone() {
    let memory = memory_with(8, [1, 4]);
    let mut reader = Reader::open(Medium::holding(saved(&[], &memory))).unwrap();
    let mut other = vec![0; memory.len()];
    // Not true, to see that nobody looks.
    other[0] = 9;
    reader.load_memory(&mut other, |_| ()).unwrap();
    assert_eq!(other[0], 9);
    assert_eq!(other[1..], memory[1..]);
}

#[test]
fn a_memory_of_another_size_is_refused() {
    let (machine, memory) = example();
    let file = saved(&machine, &memory);
    let error = restored(&file, memory.len() + PAGE).unwrap_err();
    let Invalid::MemorySize { found, expected } = (match error {
        ReadError::Invalid(invalid) => invalid,
        ReadError::Source(_) => panic!(),
    }) else {
        panic!("{error:?}")
    };
    assert_eq!((found, expected), (4 << 20, (4 << 20) + PAGE as u64));
}
