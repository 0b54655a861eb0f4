mod bounded;
mod fill;
mod flush;
mod machine;
mod model;
mod threads;
mod walk;
