package syncer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// verified is a gitlab that also answers single questions.
type verified struct {
	*gitlab
	exists map[authz.SourceID]bool             // not in it: no answer
	levels map[rbacsync.Membership]authz.Level // not in it: no answer
	asked  []string
}

func (v *verified) Exists(_ context.Context, id authz.SourceID) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = append(v.asked, id.String())
	yes, ok := v.exists[id]
	if !ok {
		return false, errors.New("502")
	}
	return yes, nil
}

func (v *verified) MemberLevel(_ context.Context, id authz.SourceID, user int64) (authz.Level, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = append(v.asked, fmt.Sprintf("%s user/%d", id, user))
	l, ok := v.levels[rbacsync.Membership{Source: id, User: user}]
	if !ok {
		return 0, errors.New("502")
	}
	return l, nil
}

func codes(r syncer.Round) string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, f.Code)
	}
	return strings.Join(out, " ")
}

// crowded is rbacsynctest.HawWorld with ten more Developers in the project, ids 11 to 20.
func crowded() *authz.Snapshot {
	s := rbacsynctest.CopySnap(rbacsynctest.HawWorld())
	p := s.Projects[42]
	for id := range int64(10) {
		s.Users[id+11] = authz.User{ID: id + 11, Username: fmt.Sprintf("dev%d", id+11), State: authz.StateActive, Human: true}
		p.Members = append(p.Members, authz.Member{User: id + 11, Level: authz.Developer})
	}
	s.Projects[42] = p
	return s
}

func lose(s *authz.Snapshot, users ...int64) *authz.Snapshot {
	n := rbacsynctest.CopySnap(s)
	for _, u := range users {
		rbacsynctest.Drop(n, u)
	}
	return n
}

// TestHeldUntilApproved is the way of a held plan: shown, approved by its content, applied, forgotten.
func TestHeldUntilApproved(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	kept := store.Held{Client: kube, Namespace: "gl-k8s-integrator"}
	g := &gitlab{snap: crowded()}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 2}}, Held: kept})
	if r, err := s.Once(t.Context(), "test"); err != nil || len(r.Held) != 0 {
		t.Fatal(r.Held, err)
	}
	if _, err := kube.CoreV1().ConfigMaps(kept.Namespace).Get(t.Context(), store.NameHeld, metav1.GetOptions{}); err == nil {
		t.Error("nothing is held, and still something was written")
	}

	g.snap = lose(g.snap, 11, 12, 13) // over the limit
	u := g.snap.Users[14]
	u.State = "blocked" // not an inference
	g.snap.Users[14] = u
	r, err := s.Once(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Held) != 3 || !strings.Contains(codes(r), "held") {
		t.Errorf("held:\n%sfindings: %s", rbacsync.HeldText(r.Held), codes(r))
	}
	wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3", "gitlab:11", "gitlab:12", "gitlab:13", "gitlab:15", "gitlab:16", "gitlab:17", "gitlab:18", "gitlab:19", "gitlab:20")

	plans := kube.CoreV1().ConfigMaps(kept.Namespace)
	plan, err := plans.Get(t.Context(), store.NameHeld, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for how, change := range map[string]func(*corev1.ConfigMap){
		"deleted": nil, "emptied": func(cm *corev1.ConfigMap) { cm.Data, cm.BinaryData = nil, nil },
		"damaged":           func(cm *corev1.ConfigMap) { cm.BinaryData["items.json.gz"] = []byte("x") },
		"another text":      func(cm *corev1.ConfigMap) { cm.Data["plan"] = "nothing is held" },
		"fixed and damaged": func(cm *corev1.ConfigMap) { cm.BinaryData["items.json.gz"], cm.Immutable = []byte("x"), new(true) },
	} {
		if change == nil {
			err = plans.Delete(t.Context(), plan.Name, metav1.DeleteOptions{})
		} else {
			cm := plan.DeepCopy()
			change(cm)
			_, err = plans.Update(t.Context(), cm, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		if r, err = s.Once(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		again, err := plans.Get(t.Context(), plan.Name, metav1.GetOptions{})
		if err != nil || cmp.Diff(plan.Data, again.Data) != "" || cmp.Diff(plan.BinaryData, again.BinaryData) != "" || again.Immutable != nil {
			t.Errorf("the plan was %s, and is not put back: %v, %v", how, again, err)
		}
	}

	approvals := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: store.NameApprovals}, BinaryData: map[string][]byte{"items.json.gz": []byte("x")},
	}
	if _, err := plans.Create(t.Context(), approvals, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r, err = s.Once(t.Context(), "test"); err != nil || len(r.Held) != 3 || !strings.Contains(codes(r), "approvals_unreadable") {
		t.Errorf("approvals that can't be read: %d held, findings: %s, %v", len(r.Held), codes(r), err)
	}
	if err := plans.Delete(t.Context(), approvals.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	items, err := kept.Load(t.Context())
	if err != nil || cmp.Diff(r.Held, items) != "" {
		t.Errorf("plan --held shows something else: %v\n%s", err, cmp.Diff(r.Held, items))
	}
	text := rbacsync.HeldText(items)
	for _, want := range []string{rbacsync.HashOf(items), "dev11 (user/11) loses view", "haw/world", "the limit is 2"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	if _, err := kept.Approve(t.Context(), "0123456789abcdef", ""); !errors.Is(err, rbacsync.ErrNoSuchHash) {
		t.Errorf("a wrong hash: %v", err)
	}
	if _, err := kept.Approve(t.Context(), rbacsync.HashOf(items), "gitlab:7"); err != nil {
		t.Fatal(err)
	}

	g.snap = lose(g.snap, 15, 16, 17) // later changes don't void it, and are not covered by it
	if r, err = s.Once(t.Context(), "test"); err != nil || len(r.Held) != 3 || r.Held[0].User != 15 {
		t.Errorf("after the approval: %v\n%s", err, rbacsync.HeldText(r.Held))
	}
	wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3", "gitlab:15", "gitlab:16", "gitlab:17", "gitlab:18", "gitlab:19", "gitlab:20")
	if len(r.Plan) != 1 || !strings.HasSuffix(r.Plan[0].Reason(), ", approved by gitlab:7") || len(r.Plan[0].ApprovedFor) != 3 {
		t.Errorf("nothing says that it was approved:\n%s", rbacsync.Text(r.Plan))
	}

	g.snap = crowded() // all come back: the approval is used up, also while something else can't be read
	g.snap.Missing = map[authz.SourceID]string{authz.GroupID(99): "HTTP 500"}
	for range 2 {
		if r, err = s.Once(t.Context(), "test"); err != nil || len(r.Held) != 0 {
			t.Errorf("all back: %v, %v", r.Held, err)
		}
	}
	if left, err := kept.Approvals(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("approvals that are kept: %v, %v", left, err)
	}
	g.snap = lose(crowded(), 11, 12, 13)
	if r, err = s.Once(t.Context(), "test"); err != nil || len(r.Held) != 3 {
		t.Errorf("missing again: held %d, %v; want 3", len(r.Held), err)
	}
}

// TestApprovalsAreForgottenAfterTheWriting: one counts until what it allows is written, and no right waits for its end.
func TestApprovalsAreForgottenAfterTheWriting(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	refused := false
	kube.PrependReactor("update", "rolebindings", func(kubetesting.Action) (bool, runtime.Object, error) {
		return refused, nil, errors.New("exceeded quota")
	})
	kept := store.Held{Client: kube, Namespace: "gl-k8s-integrator"}
	g := &gitlab{snap: crowded()}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 2}}, Held: kept})
	once(t, s)
	g.snap = lose(g.snap, 11, 12, 13)
	if _, err := kept.Approve(t.Context(), rbacsync.HashOf(once(t, s).Held), "gitlab:7"); err != nil {
		t.Fatal(err)
	}
	approvals := func(want int) {
		t.Helper()
		if left, err := kept.Approvals(t.Context()); err != nil || len(left) != want {
			t.Errorf("approvals: %v, %v; want %d", left, err, want)
		}
	}
	refused = true
	for range 2 {
		if r, err := s.Once(t.Context(), "test"); err == nil || len(r.Held) != 0 {
			t.Errorf("approved, and not written: held %v, %v", r.Held, err)
		}
		approvals(3)
	}
	refused = false
	if r := once(t, s); len(r.Held) != 0 || r.Report.Applied == 0 {
		t.Errorf("held %v, %d written", r.Held, r.Report.Applied)
	}
	approvals(3)
	g.snap = lose(crowded(), 11, 12, 13, 14)
	kube.ClearActions()
	once(t, s)
	approvals(0)
	var written []string
	for _, a := range kube.Actions() {
		if u, ok := a.(kubetesting.UpdateAction); ok && a.GetVerb() == "update" {
			o, err := meta.Accessor(u.GetObject())
			if err != nil {
				t.Fatal(err)
			}
			written = append(written, o.GetName())
		}
	}
	if d := cmp.Diff([]string{"gitlab-view", store.NameApprovals}, written); d != "" {
		t.Errorf("written (-want +got):\n%s", d)
	}
}

// ending is a Held that a process which ends can't write to any more.
type ending struct{ store.Held }

func (h ending) Forget(ctx context.Context, keys []string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return h.Held.Forget(ctx, keys)
}

// TestApprovalsAreForgottenAtTheEnd: also a process that is stopped while it writes forgets the approval of what nobody wants any
// more: what comes again before the next one looks is something new.
func TestApprovalsAreForgottenAtTheEnd(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	kept := store.Held{Client: kube, Namespace: "gl-k8s-integrator"}
	g := &gitlab{snap: crowded()}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 2}}, Held: ending{kept}})
	once(t, s)
	g.snap = lose(g.snap, 11, 12, 13)
	if _, err := kept.Approve(t.Context(), rbacsync.HashOf(once(t, s).Held), "gitlab:7"); err != nil {
		t.Fatal(err)
	}
	g.snap = lose(crowded(), 14) // the others are back
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	kube.PrependReactor("update", "rolebindings", func(kubetesting.Action) (bool, runtime.Object, error) {
		stop()
		return false, nil, nil
	})
	r, _ := s.Once(ctx, "test")
	if ctx.Err() == nil {
		t.Fatalf("nothing was written: %+v", r.Plan)
	}
	if left, err := kept.Approvals(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("approvals: %v, %v", left, err)
	}
}

// TestGitLabConfirms: what is held is asked of GitLab, and its answer is no inference.
func TestGitLabConfirms(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	at := func(u int64) rbacsync.Membership { return rbacsync.Membership{Source: authz.ProjectID(42), User: u} }
	g := &verified{gitlab: &gitlab{snap: crowded()}, levels: map[rbacsync.Membership]authz.Level{at(11): 0, at(12): authz.Developer}}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1}}})
	once(t, s)
	if len(g.asked) != 0 {
		t.Errorf("asked without need: %v", g.asked)
	}
	g.snap = lose(g.snap, 11, 12, 13)
	r := once(t, s)
	if d := cmp.Diff("revoke project/42 view 12 by user/12\nrevoke project/42 view 13 by user/13", rbacsynctest.Keys(r.Held)); d != "" {
		t.Errorf("held (-want +got):\n%s", d)
	}
	slices.Sort(g.asked)
	if d := cmp.Diff([]string{"project/42 user/11", "project/42 user/12", "project/42 user/13"}, g.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	if got := subjects(t, kube, "haw-world", "gitlab-view"); slices.Contains(got, "gitlab:11") || !slices.Contains(got, "gitlab:12") || !slices.Contains(got, "gitlab:13") {
		t.Errorf("subjects %v", got)
	}
	if r.Report.Applied != 1 {
		t.Errorf("applied %d, want 1", r.Report.Applied)
	}
}

// TestMissingProjects: GitLab is asked about those that are missing; one it still answers for stays as it is.
func TestMissingProjects(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	snap := rbacsynctest.Organisation(1, 4)
	g := &verified{gitlab: &gitlab{snap: snap}, exists: map[authz.SourceID]bool{authz.ProjectID(1): false, authz.ProjectID(1001): true}}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1}}})
	once(t, s)
	n := rbacsynctest.CopySnap(snap)
	clear(n.Projects)
	g.snap = n
	r := once(t, s)
	if len(r.Held) != 0 || !strings.Contains(codes(r), "unread") {
		t.Errorf("held %v, findings %s", r.Held, codes(r))
	}
	wantSubjects(t, kube, "top1-a", "gitlab-edit")
	wantSubjects(t, kube, "top1-a", kubename.CIRoleBinding)
	if len(subjects(t, kube, "top1-sub-b", "gitlab-edit")) == 0 || len(subjects(t, kube, "top1-sub-b", kubename.CIRoleBinding)) == 0 {
		t.Error("a project that GitLab answers for lost its rights")
	}
}

// shuffled is crowded with a project of somebody who shuffles members: 43 has people 101 to 100+n, whose ids are lower
// than those of newer people, such as 5000 in project 42.
func shuffled(n int64) *authz.Snapshot {
	s := crowded()
	evil := authz.Project{ID: 43, Group: 7, Path: "haw/evil"}
	for id := 101 + int64(0); id <= 100+n; id++ {
		s.Users[id] = authz.User{ID: id, Username: fmt.Sprintf("pawn%d", id), State: authz.StateActive, Human: true}
		evil.Members = append(evil.Members, authz.Member{User: id, Level: authz.Developer})
	}
	s.Projects[43] = evil
	s.Users[5000] = authz.User{ID: 5000, Username: "victim", State: authz.StateActive, Human: true}
	p := s.Projects[42]
	p.Members = append(p.Members, authz.Member{User: 5000, Level: authz.Developer})
	s.Projects[42] = p
	return s
}

// TestAShuffleDoesNotDelayARemoval: somebody removes hundreds of people from a project of theirs, so that the whole
// top-level group is over its limit. A removal elsewhere in that group is asked of GitLab, and made, in the same round,
// whether the shuffle came with it or before, and whether GitLab has answers for the shuffle or not.
func TestAShuffleDoesNotDelayARemoval(t *testing.T) {
	t.Parallel()
	for _, answers := range []bool{true, false} {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("answers %t, shuffle before %t", answers, before), func(t *testing.T) {
				t.Parallel()
				kube := fake.NewClientset()
				full := shuffled(400)
				g := &verified{gitlab: &gitlab{snap: full}, levels: map[rbacsync.Membership]authz.Level{{Source: authz.ProjectID(42), User: 5000}: 0}}
				var pawns []int64
				for id := int64(101); id <= 500; id++ {
					pawns = append(pawns, id)
					if answers {
						g.levels[rbacsync.Membership{Source: authz.ProjectID(43), User: id}] = 0
					}
				}
				s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 5}}})
				once(t, s)
				if before {
					g.snap = lose(full, pawns...)
					for range 3 {
						once(t, s)
					}
				}
				g.snap = lose(full, append(pawns, 5000)...)
				r := once(t, s)
				if slices.Contains(subjects(t, kube, "haw-world", "gitlab-view"), "gitlab:5000") {
					t.Errorf("the removal waits behind the shuffle; %d are held", len(r.Held))
				}
				if len(r.Held) == 0 {
					t.Error("nothing is held: this test shows nothing")
				}
				for n := 0; answers && len(r.Held) > 0; n++ { // at most 60 questions in a round
					if n == 7 {
						t.Fatalf("after %d more rounds %d are held still", n, len(r.Held))
					}
					r = once(t, s)
				}
			})
		}
	}
}

// TestTheRestIsAskedSoon: what did not fit into one round is asked in another one soon, not with the next full reading.
func TestTheRestIsAskedSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		full := shuffled(100)
		g := &verified{gitlab: &gitlab{snap: full}, levels: map[rbacsync.Membership]authz.Level{}}
		var pawns []int64
		for id := int64(101); id <= 200; id++ {
			pawns = append(pawns, id)
			g.levels[rbacsync.Membership{Source: authz.ProjectID(43), User: id}] = 0
		}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Interval: time.Hour, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 5}}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		g.set(func(g *gitlab) { g.snap = lose(full, pawns...) })
		s.Trigger(nil, "test")
		time.Sleep(time.Second)
		synctest.Wait()
		if held := len(s.State().Round.Held); held != 40 {
			t.Errorf("%d are held after the first round, want 40", held)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := subjects(t, kube, "haw-evil", "gitlab-view"); len(got) != 0 {
			t.Errorf("a minute later %d still have their rights", len(got))
		}
		if calls := g.taken(); len(calls) != 2 {
			t.Errorf("GitLab was read as %v, want twice", calls)
		}
		cancel()
		<-ended
	})
}

// clock is a time that tests set.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

// gone returns since when the source of a namespace is gone, by its note, and whether the namespace exists.
func gone(t *testing.T, kube *fake.Clientset, ns string) (since string, exists bool) {
	t.Helper()
	n, err := kube.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
	if err != nil {
		return "", false
	}
	return n.Annotations[kubename.AnnotationGoneSince], true
}

// TestDeletion: a namespace goes only after the grace period and only on GitLab's 404, and never in the round that
// finds its source gone; undeleted within it, all comes back.
func TestDeletion(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	full := crowded()
	g := &verified{gitlab: &gitlab{snap: full}, exists: map[authz.SourceID]bool{}}
	c := &clock{rbacsynctest.Noon}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Now: c.now, Settings: rbacsync.Settings{DeleteAfter: 24 * time.Hour}})
	without := rbacsynctest.CopySnap(full)
	delete(without.Projects, 42)
	step := func(name string, after time.Duration, snap *authz.Snapshot, wantNote, wantThere bool) {
		t.Helper()
		c.at = c.at.Add(after)
		g.snap = snap
		once(t, s)
		note, there := gone(t, kube, "haw-world")
		if (note != "") != wantNote || there != wantThere {
			t.Errorf("%s: note %q, there %t; want note %t, there %t", name, note, there, wantNote, wantThere)
		}
	}
	step("at first", 0, full, false, true)
	step("missing, GitLab does not answer", time.Minute, without, false, true)
	wantSubjects(t, kube, "haw-world", "gitlab-view") // rights go at once
	step("still no answer, a year later", 365*24*time.Hour, without, false, true)
	g.exists[authz.ProjectID(42)] = false
	step("GitLab says 404: only noted", time.Minute, without, true, true)
	step("within the grace period", 23*time.Hour, without, true, true)
	step("undeleted", time.Hour/2, full, false, true)
	if got := subjects(t, kube, "haw-world", "gitlab-view"); len(got) != 11 {
		t.Errorf("undeleted, but only %v have rights", got)
	}
	step("deleted again: the time starts anew", 48*time.Hour, without, true, true)
	delete(g.exists, authz.ProjectID(42))
	step("over, but GitLab does not answer", 25*time.Hour, without, true, true)
	g.exists[authz.ProjectID(42)] = true
	step("over, but GitLab has it", time.Minute, without, true, true)
	g.exists[authz.ProjectID(42)] = false
	step("over", time.Minute, without, false, false)
	step("nothing left to do", time.Minute, without, false, false)
	if _, there := gone(t, kube, "haw"); !there {
		t.Error("another namespace is gone, too")
	}
}

// TestRetain is the default: a namespace is kept for ever, also when deletion was configured before, and a setting
// that was just made starts with the full grace period.
func TestRetain(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	g := &verified{gitlab: &gitlab{snap: crowded()}, exists: map[authz.SourceID]bool{authz.ProjectID(42): false}}
	c := &clock{rbacsynctest.Noon}
	newSyncer := func(after time.Duration) *syncer.Syncer {
		return newSyncer(t, syncer.Options{Reader: g, Kube: kube, Now: c.now, Settings: rbacsync.Settings{DeleteAfter: after}})
	}
	once(t, newSyncer(0))
	g.snap = rbacsynctest.CopySnap(g.snap)
	delete(g.snap.Projects, 42)
	for _, step := range []struct {
		deleteAfter, later time.Duration
		note               bool
	}{{0, time.Hour, false}, {0, 1000 * time.Hour, false}, {24 * time.Hour, time.Hour, true}, {0, 1000 * time.Hour, false}, {24 * time.Hour, time.Hour, true}} {
		c.at = c.at.Add(step.later)
		once(t, newSyncer(step.deleteAfter))
		note, there := gone(t, kube, "haw-world")
		if !there || (note != "") != step.note {
			t.Errorf("%+v: there %t, note %q", step, there, note)
		}
	}
}

// TestWhatIsLeftOutIsNotGone: what the configuration leaves out is in GitLab still, and is never deleted.
func TestWhatIsLeftOutIsNotGone(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	g := &verified{gitlab: &gitlab{snap: crowded()}, exists: map[authz.SourceID]bool{authz.ProjectID(42): false}}
	c := &clock{rbacsynctest.Noon}
	once(t, newSyncer(t, syncer.Options{Reader: g, Kube: kube, Now: c.now}))
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s, err := syncer.New(syncer.Options{Questions: questionsOf(g), Reader: g, Kube: kube, Now: c.now, Policy: p, Mode: syncer.ModeEnforce, Settings: rbacsync.Settings{DeleteAfter: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		once(t, s)
		c.at = c.at.Add(48 * time.Hour)
	}
	if note, there := gone(t, kube, "haw-world"); !there || note != "" {
		t.Errorf("there %t, note %q", there, note)
	}
	wantSubjects(t, kube, "haw-world", "gitlab-view")
	if len(g.asked) != 0 {
		t.Errorf("asked about what is in the lists: %v", g.asked)
	}
}

// TestRenameAndTransferKeepTheNamespace: also when the hook was lost, so that the next thing seen is a full reading.
func TestRenameAndTransferKeepTheNamespace(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	g := &gitlab{snap: rbacsynctest.HawWorld()}
	limits := rbacsync.DefaultLimits()
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Limits: &limits, Settings: rbacsync.Settings{DeleteAfter: time.Hour}})
	once(t, s)
	if _, err := kube.CoreV1().ConfigMaps("haw-world").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n := rbacsynctest.CopySnap(g.snap)
	n.Groups[8] = authz.Group{ID: 8, Path: "moved", Members: n.Groups[7].Members}
	p := n.Projects[42]
	p.Group, p.Path = 8, "moved/earth"
	n.Projects[42] = p
	// Somebody takes the old path at once.
	n.Projects[43] = authz.Project{ID: 43, Group: 7, Path: "haw/world"}
	g.snap = n
	r := once(t, s)
	for _, c := range r.Plan {
		if c.Revokes || c.Action == rbacsync.Delete || (c.Source == authz.ProjectID(42) && c.Key.Kind != rbacsync.KindNamespace) {
			t.Errorf("a rename does more than change the path: %s", c)
		}
	}
	if r.Names[authz.ProjectID(42)] != "haw-world" || r.Names[authz.ProjectID(43)] != "haw-world-p43" {
		t.Errorf("names %v", r.Names)
	}
	wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
	if _, err := kube.CoreV1().ConfigMaps("haw-world").Get(t.Context(), "theirs", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// TestRestoredGitLabTouchesNothing: after a restore from backup ids are handed out again, to another group, project and
// person. Their created_at tells; neither a full reading nor one for a hook, nor GitLab's answers about single things,
// change anything in the namespaces of those who had the ids before.
func TestRestoredGitLabTouchesNothing(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	old := rbacsynctest.HawWorld()
	old.Users[66] = authz.User{ID: 66, Username: "frank", State: authz.StateActive, Human: true, CreatedAt: time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)}
	g := &verified{gitlab: &gitlab{snap: old}, exists: map[authz.SourceID]bool{}}
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource, authz.UserSource}})
	if err != nil {
		t.Fatal(err)
	}
	limits := rbacsync.DefaultLimits()
	s, err := syncer.New(syncer.Options{
		Questions: questionsOf(g), Reader: g, Kube: kube, Policy: p, Mode: syncer.ModeEnforce, Limits: &limits, Settings: rbacsync.Settings{DeleteAfter: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	first := once(t, s)
	if first.Names[authz.UserID(66)] != "frank" {
		t.Fatalf("names %v", first.Names)
	}
	n := rbacsynctest.CopySnap(old)
	later := func(at time.Time) time.Time { return at.AddDate(1, 0, 0) }
	n.Users[66] = authz.User{ID: 66, Username: "eve", State: authz.StateActive, Human: true, CreatedAt: later(old.Users[66].CreatedAt)}
	pr := n.Projects[42]
	pr.Path, pr.CreatedAt, pr.Members = "haw/other", later(pr.CreatedAt), []authz.Member{{User: 66, Level: authz.Owner}}
	n.Projects[42] = pr
	gr := n.Groups[7]
	gr.Path, gr.CreatedAt, gr.Members = "other", later(gr.CreatedAt), []authz.Member{{User: 66, Level: authz.Owner}}
	n.Groups[7] = gr
	g.snap = n
	kube.ClearActions()
	for range 2 {
		r := once(t, s)
		if len(r.Plan) != 0 || strings.Count(codes(r), "other_created_at") != 3 {
			t.Errorf("plan:\n%sfindings %s", rbacsync.Text(r.Plan), codes(r))
		}
		for _, id := range []authz.SourceID{authz.GroupID(7), authz.ProjectID(42), authz.UserID(66)} {
			g.exists[id] = false // the answers about single things don't help an attacker, either
		}
	}
	for _, a := range kube.Actions() {
		if a.GetVerb() != "list" && a.GetVerb() != "watch" && a.GetVerb() != "get" {
			t.Errorf("written: %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
	wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
	wantSubjects(t, kube, "haw", "gitlab-edit", "gitlab:2")
}

// TestReservedNameIsKnown: a namespace whose name is reserved keeps it, and is a finding until an entry of rbacsync.adopt
// says that it is wanted.
func TestReservedNameIsKnown(t *testing.T) {
	t.Parallel()
	snap := rbacsynctest.HawWorld()
	g := snap.Groups[7]
	g.Path = "com"
	snap.Groups[7] = g
	for _, c := range []struct {
		name  string
		adopt []rbacsync.Adoption
		want  bool
	}{
		{"nothing said", nil, true},
		{"for another source", []rbacsync.Adoption{{Namespace: "com", Source: authz.ProjectID(42)}}, true},
		{"another namespace", []rbacsync.Adoption{{Namespace: "org", Source: authz.GroupID(7)}}, true},
		{"wanted", []rbacsync.Adoption{{Namespace: "com", Source: authz.GroupID(7)}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kube := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: "com", UID: "u", ResourceVersion: "1",
				Labels:      map[string]string{kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelSource: "group-7"},
				Annotations: map[string]string{kubename.AnnotationIssuer: rbacsynctest.Issuer},
			}})
			r := once(t, newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: kube, Settings: rbacsync.Settings{Adopt: c.adopt}}))
			if r.Names[authz.GroupID(7)] != "com" {
				t.Errorf("names %v", r.Names)
			}
			if got := strings.Contains(codes(r), "namespace_name_reserved"); got != c.want {
				t.Errorf("findings %s, want it among them: %v", codes(r), c.want)
			}
		})
	}
}

// TestAdoption: an existing namespace is taken over only with a configuration entry that names the id, and an
// administrator's mark on it.
func TestAdoption(t *testing.T) {
	t.Parallel()
	mark := map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}
	adopt := []rbacsync.Adoption{{Namespace: "old", Source: authz.ProjectID(42), Path: "haw/world"}}
	for _, c := range []struct {
		name   string
		labels map[string]string
		notes  map[string]string
		adopt  []rbacsync.Adoption
		home   string // where project/42 has its rights, "" nowhere
		find   string
	}{
		{"entry and mark", mark, nil, adopt, "old", ""},
		{"entry without the mark: waits, and gets no other namespace", nil, nil, adopt, "", "adopt_unmarked"},
		{"mark without an entry", mark, nil, nil, "haw-world", "bad_mark"},
		{"neither", nil, nil, nil, "haw-world", ""},
		{"an entry with another path", mark, nil, []rbacsync.Adoption{{Namespace: "old", Source: authz.ProjectID(42), Path: "haw/mars"}}, "", "adopt_refused"},
		{
			"the namespace of another source",
			map[string]string{kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelSource: "group-99"},
			map[string]string{kubename.AnnotationIssuer: rbacsynctest.Issuer},
			adopt, "haw-world", "adopt_refused",
		},
		{"the namespace of another GitLab", mark, map[string]string{kubename.AnnotationIssuer: "https://other.example.com"}, adopt, "haw-world", "adopt_refused"},
		{"a namespace that does not exist", nil, nil, []rbacsync.Adoption{{Namespace: "nowhere", Source: authz.ProjectID(42)}}, "haw-world", "adopt_refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kube := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "old", UID: "u", ResourceVersion: "1", Labels: c.labels, Annotations: c.notes}})
			s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: kube, Settings: rbacsync.Settings{Adopt: c.adopt}})
			var r syncer.Round
			for range 2 {
				r = once(t, s)
			}
			if len(r.Plan) != 0 {
				t.Errorf("the second round still plans:\n%s", rbacsync.Text(r.Plan))
			}
			if got := r.Names[authz.ProjectID(42)]; got != c.home {
				t.Errorf("namespace %q, want %q (findings %s)", got, c.home, codes(r))
			}
			if c.home != "" {
				wantSubjects(t, kube, c.home, "gitlab-view", "gitlab:3")
			}
			if c.find != "" && !strings.Contains(codes(r), c.find) {
				t.Errorf("findings %q lack %s", codes(r), c.find)
			}
			old, err := kube.CoreV1().Namespaces().Get(t.Context(), "old", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if adopted := old.Labels[kubename.LabelSource] == "project-42"; adopted != (c.home == "old") {
				t.Errorf("labels %v", old.Labels)
			}
		})
	}
}

// TestAnApprovalThatIsToldGoesOnAtOnce: whoever approves names the places, as a hook does, and the pass over these finds the approval.
// Without that it waits for the next look at everything.
func TestAnApprovalThatIsToldGoesOnAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		kept := store.Held{Client: kube, Namespace: "gl-k8s-integrator"}
		g := &gitlab{snap: crowded()}
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 2}}, Held: kept,
		})
		defer run(t, s)()
		time.Sleep(time.Second)
		g.set(func(g *gitlab) { g.snap = lose(g.snap, 11, 12, 13) })
		s.Trigger(nil, "everything")
		time.Sleep(time.Second)
		items, err := kept.Load(t.Context())
		if err != nil || len(items) != 3 {
			t.Fatalf("held: %v %v", items, err)
		}
		if _, err := kept.Approve(t.Context(), rbacsync.HashOf(items), "gitlab:7"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := len(subjects(t, kube, "haw-world", "gitlab-view")); n != 11 {
			t.Errorf("nobody told of it, and %d are left", n)
		}
		s.Trigger([]authz.SourceID{items[0].Source}, "approval")
		time.Sleep(time.Second)
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3", "gitlab:14", "gitlab:15", "gitlab:16", "gitlab:17", "gitlab:18", "gitlab:19", "gitlab:20")
	})
}

// hangingHeld is a Held that gives no answer while it hangs.
type hangingHeld struct {
	store.Held
	hangs *atomic.Bool
}

func (h hangingHeld) wait(ctx context.Context) error {
	if h.hangs.Load() {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (h hangingHeld) Approvals(ctx context.Context) (map[string]string, error) {
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	return h.Held.Approvals(ctx)
}

func (h hangingHeld) Save(ctx context.Context, items []rbacsync.Item) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	return h.Held.Save(ctx, items)
}

// TestRequestsAboutWhatIsHeldDelayLittle: while something is held and nobody answers about it, hooks about other groups wait for
// nothing, and of those about the same group one alone does. Afterwards all is as it was.
func TestRequestsAboutWhatIsHeldDelayLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		hangs := &atomic.Bool{}
		kept := store.Held{Client: kube, Namespace: "gl-k8s-integrator"}
		begin := crowded()
		begin.Groups[70] = authz.Group{ID: 70, Path: "other"}
		begin.Projects[71] = authz.Project{ID: 71, Group: 70, Path: "other/p", Members: []authz.Member{{User: 16, Level: authz.Developer}}}
		g := &gitlab{snap: begin}
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 2}},
			Held: hangingHeld{kept, hangs},
		})
		defer run(t, s)()
		time.Sleep(time.Second)
		hook := func(project int64, change func(*authz.Project)) {
			next := authztest.Clone(g.snap)
			p := next.Projects[project]
			p.Members = slices.Clone(p.Members)
			change(&p)
			next.Projects[project] = p
			g.mu.Lock()
			g.snap = next
			g.mu.Unlock()
			s.Trigger([]authz.SourceID{authz.ProjectID(project)}, "hook")
		}
		level := func(user int64, l authz.Level) func(*authz.Project) {
			return func(p *authz.Project) {
				for i := range p.Members {
					if p.Members[i].User == user {
						p.Members[i].Level = l
					}
				}
			}
		}
		g.mu.Lock()
		g.snap = lose(begin, 11, 12, 13)
		g.mu.Unlock()
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(time.Second)
		if n := len(s.State().Round.Held); n != 3 {
			t.Fatalf("%d are held, want three", n)
		}
		hangs.Store(true)
		levels := []authz.Level{authz.Guest, authz.Developer}
		for i := range 10 { // elsewhere
			hook(71, level(16, levels[i%2]))
			time.Sleep(50 * time.Millisecond)
			wantSubjects(t, kube, "other-p", "gitlab-view", [][]string{nil, {"gitlab:16"}}[i%2]...)
		}
		hook(42, level(14, authz.Guest))
		time.Sleep(5 * time.Second)
		for i := range 10 { // in the same group
			hook(42, level(15, levels[i%2]))
			time.Sleep(50 * time.Millisecond)
			if has := slices.Contains(subjects(t, kube, "haw-world", "gitlab-view"), "gitlab:15"); has != (i%2 == 1) {
				t.Errorf("hook %d in the group was not carried out", i)
			}
		}
		hangs.Store(false)
		if _, err := kept.Approve(t.Context(), rbacsync.HashOf(s.State().Round.Held), "gitlab:7"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		hook(42, level(15, authz.Guest))
		time.Sleep(time.Second)
		if held := s.State().Round.Held; len(held) != 0 {
			t.Errorf("after the approval these are held: %v", held)
		}
	})
}
