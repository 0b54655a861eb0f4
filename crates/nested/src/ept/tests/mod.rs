mod bounded;
mod fill;
mod flush;
mod machine;
mod model;
mod resync;
mod threads;
mod walk;
