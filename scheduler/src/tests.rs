//! The scheduler as a whole: scenes, and a simulation that checks the invariants behind every event.

mod agents;
mod fairness;
mod growth;
mod holds;
mod mute;
mod operators;
mod pace;
mod paced;
mod pages;
mod promises;
mod rates;
mod reroute;
mod running;
mod scenes;
mod simulation;
mod slices;
mod window;
mod world;
