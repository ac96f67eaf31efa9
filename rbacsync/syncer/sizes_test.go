package syncer

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// TestSizesAreCountedByPassesOverEverything: each of them counts, also after one that failed, and those over single namespaces carry
// that on. A group that became one since is counted when it is asked for.
func TestSizesAreCountedByPassesOverEverything(t *testing.T) {
	t.Parallel()
	known := func(tops int) (*authz.Snapshot, *rbacsync.Wanted) {
		snap := rbacsynctest.Organisation(tops, 30)
		return snap, rbacsynctest.WantedFor(rbacsynctest.Policy(t), snap, &rbacsync.Observed{})
	}
	s := &pipeline{}
	after := func(tops int, scope rbacsync.Scope) {
		snap, want := known(tops)
		if scope == nil {
			s.wanted = rbacsync.ByNamespace(want)
		}
		s.remember(&pass{job: job{Round: Round{Snapshot: snap}}, scope: scope, want: want})
	}
	sizes := func(tops int) map[authz.SourceID]int {
		snap, want := known(tops)
		return rbacsync.Sizes(func(yield func([]rbacsync.Object) bool) { yield(want.Objects) }, snap.Top)
	}
	all, some := authz.SourceID{}, rbacsync.Scope{"ns": true}
	after(3, nil)
	if d := cmp.Diff(sizes(3), s.last.sizes); d != "" {
		t.Errorf("who asks first counts (-want +got):\n%s", d)
	}
	if got, want := s.size(all), sizes(3)[all]; got != want || want == 0 {
		t.Errorf("in all there are %d, want %d", got, want)
	}
	after(3, some)
	if s.last.sizes == nil {
		t.Error("the next pass over single namespaces counts anew")
	}
	s.last = nil // a pass has failed
	after(5, nil)
	if d := cmp.Diff(sizes(5), s.last.sizes); d != "" {
		t.Fatalf("the first to ask after a pass over everything counts (-want +got):\n%s", d)
	}
	var group authz.SourceID
	for group = range sizes(5) {
		if group != all {
			break
		}
	}
	want := s.last.sizes[group]
	delete(s.last.sizes, group)
	if got := s.size(group); got != want || want == 0 {
		t.Errorf("a group that became one since has %d, want %d", got, want)
	}
	s.size(authz.GroupID(1 << 40))
	if _, known := s.last.sizes[authz.GroupID(1<<40)]; !known {
		t.Error("a group without a namespace is counted again and again")
	}
}
