package app

// descriptors returns how many files this process may have open. Windows has no such limit; serve is not meant for it, the
// commands of a laptop are.
func descriptors() uint64 { return 1 << 14 }
