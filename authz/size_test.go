package authz_test

import (
	"testing"
	"unsafe"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestValuesOfASnapshotAreCopiedTogether: a map keeps values of up to 128 bytes side by side, and larger ones one by one, so that a
// copy of 10,000 of them is 10,000 allocations. With each hook a map of a Snapshot is copied (docs/adr/0149).
func TestValuesOfASnapshotAreCopiedTogether(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]uintptr{
		"User": unsafe.Sizeof(authz.User{}), "Group": unsafe.Sizeof(authz.Group{}), "Project": unsafe.Sizeof(authz.Project{}),
	} {
		if size > 128 {
			t.Errorf("a %s has %d bytes", name, size)
		}
	}
}
