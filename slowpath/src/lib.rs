//! What workers punt: answers to the sender and packets that wait for a neighbour.
