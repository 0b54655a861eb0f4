//! Where the pages of a file go to and come from.

/// Takes the pages of a file.
pub trait Sink {
    /// What can go wrong.
    type Error;

    /// Pages that it has room for.
    fn pages(&self) -> u64;

    /// Writes `pieces`, one after the other, from page `first` on. Each is of whole pages, and there
    /// is room for them. Pieces that are not of the caller's memory are aligned to a page.
    ///
    /// # Errors
    ///
    /// What is wrong with the transport.
    fn write(&mut self, first: u64, pieces: &[&[u8]]) -> Result<(), Self::Error>;

    /// Returns when what has been written will stay, whatever happens.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn flush(&mut self) -> Result<(), Self::Error>;
}

/// Gives the pages of a file.
pub trait Source {
    /// What can go wrong.
    type Error;

    /// Pages that it has. There may be more than the file's.
    fn pages(&self) -> u64;

    /// Fills `pieces`, one after the other, from page `first` on. Each is of whole pages, and the
    /// source has them. Pieces that are not of the caller's memory are aligned to a page.
    ///
    /// # Errors
    ///
    /// What is wrong with the transport.
    fn read(&mut self, first: u64, pieces: &mut [&mut [u8]]) -> Result<(), Self::Error>;
}

impl<S: Sink> Sink for &mut S {
    type Error = S::Error;

    fn pages(&self) -> u64 {
        (**self).pages()
    }

    fn write(&mut self, first: u64, pieces: &[&[u8]]) -> Result<(), Self::Error> {
        (**self).write(first, pieces)
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        (**self).flush()
    }
}

impl<S: Source> Source for &mut S {
    type Error = S::Error;

    fn pages(&self) -> u64 {
        (**self).pages()
    }

    fn read(&mut self, first: u64, pieces: &mut [&mut [u8]]) -> Result<(), Self::Error> {
        (**self).read(first, pieces)
    }
}
