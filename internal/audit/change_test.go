package audit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestOnlyWhoWasHeldNamesTheApprover: by one write two lose a role and one gets it. One of the two was held, and somebody approved it;
// of the other one GitLab said so itself.
func TestOnlyWhoWasHeldNamesTheApprover(t *testing.T) {
	w, kube := newWorld(3), newCluster()
	x := w.writer(kube, Limits{Days: 1, MaxBytes: 1 << 20})
	w.flip("haw", "view", 1)
	w.flip("haw", "view", 2)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	p := w.pass(syncer.KindFull, "interval", nil, flips{"haw", "view", 1}, flips{"haw", "view", 2}, flips{"haw", "view", 3})
	if len(p.Made) != 1 {
		t.Fatalf("%d writes, want one", len(p.Made))
	}
	p.Made[0].ApprovedFor = map[int64]string{1: "kubernetes-admin"}
	w.save(t, x, p)
	entries, err := NewReader(kube).Namespace(t.Context(), "haw", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		got[fmt.Sprint(e.What, " ", e.Who.Name)] = e.ApprovedBy
	}
	if d := cmp.Diff(map[string]string{"lost u1": "kubernetes-admin", "lost u2": "", "gained u3": ""}, got); d != "" {
		t.Errorf("who approved what (-want +got):\n%s", d)
	}
}

// someOf returns a binding in the namespace haw with some of eight people, or perhaps its ServiceAccount, and notes them.
func someOf(r *rand.Rand, role string, in map[holder]bool) *rbacsync.Binding {
	b := &rbacsync.Binding{Role: role}
	for id := int64(1); id < 9; id++ {
		if role != "ci" && r.IntN(2) == 0 {
			b.Users = append(b.Users, id)
		}
	}
	if role == "ci" && r.IntN(2) == 0 {
		b.Others = []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "ci", Namespace: "haw"}}
	}
	for _, h := range holders(map[string]*rbacsync.Binding{role: b}, "haw") {
		in[h] = true
	}
	return b
}

// TestEachEntryNamesItsOwnApprover is a law of random passes over one namespace, whose roles have several bindings: who lost a role is
// told with the approval of just that, who got one with that of the namespace, if it was made then.
func TestEachEntryNamesItsOwnApprover(t *testing.T) {
	approvers := []string{"", "", "gitlab:90", "gitlab:91", "kubernetes-admin"}
	lostBy, gainedBy := map[string]int{}, map[string]int{}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 140))
		pick := func() string { return approvers[r.IntN(len(approvers))] }
		namespace := rbacsync.NamespaceKey("haw")
		x := Written{
			Kind: syncer.KindFull, Snapshot: &authz.Snapshot{Issuer: issuer, Groups: map[int64]authz.Group{1: {ID: 1, Path: "haw"}}}, Observed: &rbacsync.Observed{},
			Began: time.Unix(1, 0), Ended: time.Unix(2, 0),
		}
		approved := map[holder]string{} // by whom it was approved that somebody loses a role
		before, after := map[holder]bool{}, map[holder]bool{}
		for _, b := range []struct{ name, role string }{{"edit", "edit"}, {"edit-2", "edit"}, {"view", "view"}, {"ci", "ci"}} {
			k := rbacsync.Key{Namespace: "haw", Kind: rbacsync.KindRoleBinding, Name: bindingPrefix + b.name}
			live := &rbacsync.Live{Object: rbacsync.Object{Key: k, Binding: someOf(r, b.role, before)}}
			x.Observed.Live = append(x.Observed.Live, live)
			x.Made = append(x.Made, rbacsync.Change{Action: rbacsync.Update, Key: k, Source: authz.GroupID(1), Old: live, New: &rbacsync.Object{Key: k, Binding: someOf(r, b.role, after)}})
		}
		for h := range before {
			if after[h] {
				continue
			}
			approved[h] = pick()
			for i := range x.Made {
				if c := &x.Made[i]; approved[h] != "" && h.in(c.Old.Binding, "haw") {
					if c.ApprovedFor == nil {
						c.ApprovedFor = map[int64]string{}
					}
					c.ApprovedFor[h.user] = approved[h]
				}
			}
		}
		made := rbacsync.Change{Action: rbacsync.Create, Key: namespace, Source: authz.GroupID(1), New: &rbacsync.Object{Key: namespace, Namespace: &rbacsync.Namespace{Source: authz.GroupID(1), Issuer: issuer}}, ApprovedBy: pick()}
		if r.IntN(2) == 0 {
			x.Made = append(x.Made, made)
		} else {
			made.ApprovedBy = ""
		}
		r.Shuffle(len(x.Made), func(i, j int) { x.Made[i], x.Made[j] = x.Made[j], x.Made[i] })
		p := places(x)["haw"]
		d := differ{x: x, why: reasons{now: x.Snapshot, at: x.Began}, owner: func(*place) int64 { return 0 }}
		var seen []holder
		for _, c := range d.changes(p, holders(p.before(), "haw")) {
			h := holder{user: c.user, subject: c.subject, role: c.role}
			switch {
			case c.object():
			case c.what == gained && c.by != made.ApprovedBy:
				t.Fatalf("seed %d: %+v was gained by an approval of %q, want %q", seed, h, c.by, made.ApprovedBy)
			case c.what == lost && c.by != approved[h]:
				t.Fatalf("seed %d: %+v was lost by an approval of %q, want %q", seed, h, c.by, approved[h])
			case c.what == gained:
				gainedBy[c.by]++
			default:
				lostBy[c.by]++
				seen = append(seen, h)
			}
		}
		if len(seen) != len(approved) || slices.ContainsFunc(seen, func(h holder) bool { return after[h] }) {
			t.Fatalf("seed %d: %d of %d losses are told", seed, len(seen), len(approved))
		}
	}
	for _, by := range approvers {
		if lostBy[by] < 50 || gainedBy[by] < 50 {
			t.Errorf("by %q: %d were lost, %d gained: this shows nothing", by, lostBy[by], gainedBy[by])
		}
	}
}

// TestWhatAgreesIsTheSame: where bindings are said to give what is recorded, a comparison of all of it finds no difference; and of
// bindings as we make them it is said. Others may have split, doubled or emptied some.
func TestWhatAgreesIsTheSame(t *testing.T) {
	t.Parallel()
	same, other := 0, 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 12))
		b, recorded := newBook(), state{}
		in := map[holder]bool{}
		bindings := map[string]*rbacsync.Binding{}
		for _, role := range []string{"edit", "view", "ci"} {
			bindings[role] = someOf(r, role, in)
		}
		for h := range in {
			c := change{at: time.Unix(0, 0), namespace: "haw", user: h.user, subject: h.subject, role: h.role, what: gained}
			b.note(c, recorded)
		}
		at := func() *place {
			p := &place{name: "haw"}
			for name, x := range bindings {
				p.live = append(p.live, &rbacsync.Live{Object: rbacsync.Object{Key: rbacsync.Key{Name: bindingPrefix + name}, Binding: x}})
			}
			return p
		}
		if !b.agrees(at(), recorded[b.namespaceNumber("haw")]) {
			t.Fatalf("seed %d: bindings that are as recorded don't agree", seed)
		}
		some := bindings[[]string{"edit", "view"}[r.IntN(2)]]
		switch r.IntN(6) {
		case 0: // a shard more
			bindings["more"] = someOf(r, "view", map[holder]bool{})
		case 1:
			some.Users = append(slices.Clone(some.Users), int64(r.IntN(12)))
		case 2:
			if len(some.Users) > 1 {
				some.Users[r.IntN(len(some.Users))] = some.Users[0]
			}
		case 3:
			bindings["ci"].Others = append(bindings["ci"].Others, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: "ci"})
		case 4:
			some.Role = "admin"
		case 5:
			delete(bindings, "view")
		}
		n := b.namespaceNumber("haw")
		equal := slices.Equal(b.recorded(recorded[n]), holders(bindings, "haw"))
		switch agrees := b.agrees(at(), recorded[n]); {
		case agrees && !equal:
			t.Fatalf("seed %d: %v is said to be what is recorded, %v", seed, holders(bindings, "haw"), b.recorded(recorded[n]))
		case equal:
			same++
		default:
			other++
		}
	}
	if same < 300 || other < 300 {
		t.Errorf("%d are the same and %d are not: that shows little", same, other)
	}
}

// TestARecordIsItsChange: what is not stored is noted again from its records, so they say all that the change did.
func TestARecordIsItsChange(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 144))
	b, now := newBook(), state{}
	noted := 0
	for n := range 2000 {
		c := change{
			at: time.UnixMilli(int64(n)), namespace: fmt.Sprintf("ns-%d", r.IntN(5)), role: []string{"edit", "view"}[r.IntN(2)], cause: []string{"", "hook"}[r.IntN(2)],
			why: []string{"", "Developer in haw"}[r.IntN(2)], by: []string{"", "gitlab:7", "kubernetes-admin"}[r.IntN(3)], what: uint8(r.IntN(2)), found: r.IntN(2) == 0,
		}
		switch r.IntN(3) {
		case 0:
			c.user = int64(1 + r.IntN(5))
			c.name = fmt.Sprintf("u%d", c.user)
		case 1:
			c.subject = "ServiceAccount ci"
		default:
			c.role, c.what = "NetworkPolicy haw/deny", created
		}
		if !b.note(c, now) {
			continue
		}
		noted++
		got, ok := b.changeOf(b.log[len(b.log)-1])
		if d := cmp.Diff(c, got, cmp.AllowUnexported(change{})); !ok || d != "" {
			t.Fatalf("%+v is known again: %t (-want +got):\n%s", c, ok, d)
		}
	}
	if noted < 500 {
		t.Errorf("only %d were noted: this shows nothing", noted)
	}
}
