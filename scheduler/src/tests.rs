//! The scheduler as a whole: scenes, and a simulation that checks the invariants behind every event.

mod fairness;
mod mute;
mod pace;
mod rates;
mod running;
mod scenes;
mod simulation;
mod window;
mod world;
