package rbacsync_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// marksOfALaterVersion are formats that this version does not know.
var marksOfALaterVersion = []string{"2", "10", "", "x", "-1", "1.5"}

// TestALaterVersionsMarksAreLeftAlone: whatever is in a namespace with marks of a later format, whatever else the marks say,
// and whatever is known of it: nothing is planned there, no other namespace is given instead, and a finding tells.
func TestALaterVersionsMarksAreLeftAlone(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const ns = "haw-world"
	for range 300 {
		in, have := rbacsynctest.Company(), new(rbacsync.Observed)
		made, _ := rbacsync.Plan(have, rbacsync.Desired(in))
		have = rbacsynctest.Apply(have, made)
		find := func(k rbacsync.Key) *rbacsync.Live {
			return have.Live[slices.IndexFunc(have.Live, func(l *rbacsync.Live) bool { return l.Key == k })]
		}
		l := find(rbacsync.NamespaceKey(ns))
		source, created := l.Namespace.Source, l.Namespace.CreatedAt
		l.UID = types.UID("uid-of-haw-world")
		labels := map[string]string{kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelSource: source.Label()}
		annotations := map[string]string{
			kubename.AnnotationSource: source.Label(), kubename.AnnotationIssuer: in.Snapshot.Issuer, kubename.AnnotationCreatedAt: created,
			kubename.AnnotationFormat: marksOfALaterVersion[r.IntN(len(marksOfALaterVersion))],
		}
		for _, m := range []map[string]string{labels, annotations} { // some of it is missing, or in a form that is not known
			for _, k := range slices.Sorted(maps.Keys(m)) {
				switch n := r.IntN(6); {
				case k == kubename.AnnotationFormat || k == kubename.LabelManagedBy:
				case n == 0:
					delete(m, k)
				case n == 1:
					m[k] = "v2/" + m[k]
				}
			}
		}
		l.Namespace, l.Doubt = rbacsync.NamespaceOf(labels, annotations)
		if b := find(rbacsync.Key{Namespace: ns, Kind: rbacsync.KindRoleBinding, Name: "gitlab-edit"}); r.IntN(2) == 0 {
			b.Binding.Users = []int64{99} // GitLab does not give them anything
		}
		known := map[string]rbacsync.Mark{}
		if r.IntN(2) == 0 {
			known[ns] = rbacsync.Mark{UID: l.UID, Source: source, CreatedAt: created}
		}
		if r.IntN(3) == 0 {
			in.Sources = slices.DeleteFunc(slices.Clone(in.Sources), func(s authz.Source) bool { return s.ID == source })
			in.Grants = nil
		}
		have = rbacsync.Identify(have, known, in.Snapshot)
		seen := find(rbacsync.NamespaceKey(ns))
		adoptions := []rbacsync.Adoption{{Namespace: ns, Source: source}}[:r.IntN(2)]
		_, names, findings := rbacsync.AssignNamespaces(have, in.Sources, in.Snapshot.Issuer, adoptions, nil)
		if names[source] != "" && slices.Contains(seen.Doubt, source) || known[ns].UID != "" && !slices.Contains(seen.Doubt, source) {
			t.Fatalf("%s gets the namespace %s", source, names[source])
		}
		for id, name := range names {
			if name == ns {
				t.Fatalf("%s gets the namespace of a later version", id)
			}
		}
		if !slices.ContainsFunc(findings, func(f authz.Finding) bool { return f.Code == "mark_newer" }) {
			t.Fatalf("no finding tells of %v %v: %v", labels, annotations, findings)
		}
		in.Names = names
		want := rbacsync.Desired(in)
		want.Adopt, want.DeleteAfter, want.Gone = map[string]authz.SourceID{ns: source}, 1, map[authz.SourceID]bool{source: true}
		changes, _ := rbacsync.Plan(have, want)
		for _, c := range changes {
			if c.Key.Namespace == ns {
				t.Fatalf("with %v %v this is planned: %s", labels, annotations, rbacsync.Text(changes))
			}
		}
	}
}

// TestANamespaceWhoseMarksBecomeClearIsNotEmptied: what a round over everything left alone, because its marks could not be judged, is
// somebody's again when they can. Before names were given anew, nobody loses what GitLab gives them there.
func TestANamespaceWhoseMarksBecomeClearIsNotEmptied(t *testing.T) {
	in := rbacsynctest.Company()
	changes, _ := rbacsync.Plan(new(rbacsync.Observed), rbacsync.Desired(in))
	have := rbacsynctest.Apply(new(rbacsync.Observed), changes)
	for id, ns := range in.Names {
		blind := in
		blind.Names = maps.Clone(in.Names)
		delete(blind.Names, id) // as long as the marks were unclear
		want := rbacsync.ByNamespace(rbacsync.Desired(blind))
		part := &rbacsync.Observed{Live: slices.DeleteFunc(slices.Clone(have.Live), func(l *rbacsync.Live) bool { return l.Key.Namespace != ns })}
		if changes, _ := rbacsync.Plan(part, want.Within(rbacsync.Scope{ns: true})); len(changes) > 0 || !want.AnyNameless(part) {
			t.Errorf("%s of %s, clear again: to be looked at as a whole: %v; planned: %v", ns, id, want.AnyNameless(part), changes)
		}
		gone := blind // what GitLab does not have any more loses its rights all the same
		gone.Sources = slices.DeleteFunc(slices.Clone(in.Sources), func(s authz.Source) bool { return s.ID == id })
		gone.Grants = slices.DeleteFunc(slices.Clone(in.Grants), func(g authz.Grant) bool { return g.Source == id })
		want = rbacsync.ByNamespace(rbacsync.Desired(gone))
		if changes, _ := rbacsync.Plan(part, want.Within(rbacsync.Scope{ns: true})); len(changes) == 0 || want.AnyNameless(part) {
			t.Errorf("%s of %s, which is gone: nothing is planned", ns, id)
		}
	}
}
