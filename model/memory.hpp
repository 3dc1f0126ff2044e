#pragma once

namespace cleave::model {

/// Keeps this process's memory close to what its tensors take, and predictable (plan::forward_bytes
/// counts on it).
///
/// libtorch asks glibc for aligned blocks, and glibc before 2.38 cannot give a freed one out again
/// for the same size: a forward pass grows the heap to two or three times its activations. From
/// here on tensors come from plain blocks that are aligned by us, all threads share one heap, and
/// what a pass frees stays for the next (no page faults in later passes). For processes that
/// answer; call it before weights are loaded. Any thread, once is enough.
void keep_memory_compact();

/// Gives what is free in this process's heap back to the system.
void return_free_memory();

}  // namespace cleave::model
