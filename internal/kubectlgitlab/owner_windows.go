package kubectlgitlab

import "os"

// keepOwner does nothing: a file made in the same folder has its rights from there.
func keepOwner(string, os.FileInfo) error { return nil }
