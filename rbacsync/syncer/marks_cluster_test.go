package syncer_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// spoilt is one way in which an administrator or a controller changes our marks on a namespace; nil deletes one.
type spoilt struct {
	name                string
	labels, annotations map[string]any
	// unclear: without the memory of the rounds before it can't be known whose the namespace is.
	unclear bool
	// refused: our own cage does not let it be put back, so the finding says it.
	refused bool
}

func marksSpoilt(other authz.SourceID) []spoilt {
	label := func(v any) map[string]any { return map[string]any{kubename.LabelSource: v} }
	owner := func(v any) map[string]any { return map[string]any{kubename.LabelManagedBy: v} }
	note := func(k string, v any) map[string]any { return map[string]any{k: v} }
	return []spoilt{
		{name: "label of another source that exists", labels: label(other.Label()), unclear: true},
		{name: "label of a source that does not exist", labels: label("project-999999"), unclear: true},
		{name: "label that is none", labels: label("x")},
		{name: "label deleted", labels: label(nil)},
		{name: "annotation of another source", annotations: note(kubename.AnnotationSource, other.Label()), unclear: true},
		{name: "annotation deleted", annotations: note(kubename.AnnotationSource, nil)},
		{name: "owner mark deleted", labels: owner(nil), unclear: true},
		{name: "owner mark of another tool", labels: owner("Helm"), unclear: true},
		{name: "owner mark and label deleted", labels: map[string]any{kubename.LabelManagedBy: nil, kubename.LabelSource: nil}, unclear: true},
		{name: "issuer deleted", annotations: note(kubename.AnnotationIssuer, nil), unclear: true},
		{name: "issuer changed", annotations: note(kubename.AnnotationIssuer, "https://elsewhere.example.com")},
		{name: "creation date changed", annotations: note(kubename.AnnotationCreatedAt, "2001-01-01T00:00:00Z")},
		{name: "creation date deleted", annotations: note(kubename.AnnotationCreatedAt, nil)},
		{name: "path changed", annotations: note(kubename.AnnotationPath, "x/y")},
		{name: "noted as gone", annotations: note(kubename.AnnotationGoneSince, "2001-01-01T00:00:00Z")},
		{name: "level of Pod Security", labels: note("pod-security.kubernetes.io/enforce", "privileged")},
		{name: "label and annotation of another source", labels: label(other.Label()), annotations: note(kubename.AnnotationSource, other.Label()), refused: true},
	}
}

func (c *testCluster) patchMeta(t *testing.T, ns string, labels, annotations map[string]any) {
	t.Helper()
	meta := map[string]any{} // null would delete all
	if labels != nil {
		meta["labels"] = labels
	}
	if annotations != nil {
		meta["annotations"] = annotations
	}
	body, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.admin.CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c *testCluster) namespace(t *testing.T, ns string) *corev1.Namespace {
	t.Helper()
	n, err := c.admin.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// like reports whether a namespace has the labels and annotations of before.
func like(n, before *corev1.Namespace) bool {
	return maps.Equal(n.Labels, before.Labels) && maps.Equal(n.Annotations, before.Annotations)
}

// only fails when a source of these names has got another namespace, or the first one has lost a right of bob or alice.
func (c *testCluster) only(t *testing.T, want ...string) {
	t.Helper()
	list, err := c.admin.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range list.Items {
		if n := list.Items[i].Name; strings.HasPrefix(n, want[0]) {
			got = append(got, n)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("namespaces %v, want %v", got, want)
	}
	for binding, user := range map[string]string{"gitlab-view": "gitlab:3", "gitlab-edit": "gitlab:2"} {
		rb, err := c.admin.RbacV1().RoleBindings(want[1]).Get(t.Context(), binding, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(rb.Subjects) != 1 || rb.Subjects[0].Name != user {
			t.Errorf("%s in %s: %v, want %s", binding, want[1], rb.Subjects, user)
		}
	}
}

// TestClusterMarksOfANamespaceArePutBack: whatever an administrator or a controller makes of our labels and annotations on a
// namespace, it stays the one of its source: they are put back at once, nobody loses a right, there never is a second
// namespace, and GitLab is followed on.
func TestClusterMarksOfANamespaceArePutBack(t *testing.T) {
	c := realCluster(t)
	snap := org(3300, "marks")
	p := snap.Projects[4300]
	p.CreatedAt = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	snap.Projects[4300] = p
	g, seen := &gitlab{snap: snap}, &rounds{}
	older, err := c.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "older-than-marks"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // creation times are in seconds
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Interval: time.Hour, Watch: c.own, OnRound: seen.add})
	running(t, s)
	eventually(t, "the first round", func() bool { return len(seen.causes()) > 0 })
	const ns = "marks-world"
	before := c.namespace(t, ns)

	for _, x := range marksSpoilt(authz.GroupID(3300)) {
		if x.refused {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			c.patchMeta(t, ns, x.labels, x.annotations)
			took := eventually(t, "the marks are put back", func() bool { return like(c.namespace(t, ns), before) })
			if took > 5*time.Second {
				t.Errorf("put back only after %v", took)
			}
			c.only(t, "marks", ns)
		})
	}

	// An older namespace that gets the same marks is the copy.
	c.patchMeta(t, older.Name, map[string]any{kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelSource: before.Labels[kubename.LabelSource]},
		map[string]any{kubename.AnnotationIssuer: before.Annotations[kubename.AnnotationIssuer], kubename.AnnotationSource: before.Annotations[kubename.AnnotationSource]})
	eventually(t, "the finding", func() bool {
		s.Trigger(nil, "copy")
		return strings.Contains(codes(s.State().Round), "duplicate_namespace")
	})
	c.only(t, "marks", ns)

	// GitLab is followed on.
	c.patchMeta(t, ns, map[string]any{kubename.LabelManagedBy: nil}, nil)
	g.set(func(g *gitlab) { g.snap = without(g.snap, 4300, 3) })
	s.Trigger([]authz.SourceID{authz.ProjectID(4300)}, "hook")
	c.may(t, false, "gitlab:3", ns, "get", "", "pods")
}

// TestClusterMarksAfterARestart: the marks are changed while no integrator runs. With what is stored the namespace is
// recognised; without, it is where one mark is left that is right, and else left as it is with a finding. In no case is
// there a second namespace, or a right less.
func TestClusterMarksAfterARestart(t *testing.T) {
	c := realCluster(t)
	for _, stored := range []bool{true, false} {
		for i, x := range marksSpoilt(authz.GroupID(3400)) {
			name := "with what is stored/" + x.name
			if !stored {
				name = "without/" + x.name
			}
			t.Run(name, func(t *testing.T) {
				id := int64(3400 + i)
				org1 := "spoilt-a" + string(rune('a'+i))
				if !stored {
					id, org1 = id+100, "spoilt-b"+string(rune('a'+i))
				}
				snap := org(id, org1)
				p := snap.Projects[id+1000]
				p.CreatedAt = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
				snap.Projects[id+1000] = p
				m := &memory{}
				once(t, newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: c.own, Memory: m}))
				ns := org1 + "-world"
				before := c.namespace(t, ns)
				c.patchMeta(t, ns, x.labels, x.annotations)
				t.Cleanup(func() { // the other tests look at it, too
					n := before.DeepCopy()
					n.ResourceVersion = ""
					if _, err := c.admin.CoreV1().Namespaces().Update(context.WithoutCancel(t.Context()), n, metav1.UpdateOptions{}); err != nil {
						t.Error(err)
					}
				})
				if !stored {
					m = &memory{}
				}
				s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: c.own, Memory: m})
				r, err := s.Once(t.Context(), "restart")
				c.marksAfter(t, x, stored, r, err, before)
			})
		}
	}
}

// aboutNamespace returns the findings that name a namespace.
func aboutNamespace(r syncer.Round, ns string) []authz.Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f authz.Finding) bool { return !strings.Contains(f.Text, strconv.Quote(ns)) })
}

func (c *testCluster) marksAfter(t *testing.T, x spoilt, stored bool, r syncer.Round, err error, before *corev1.Namespace) {
	t.Helper()
	ns := before.Name
	right := like(c.namespace(t, ns), before)
	switch {
	case stored && x.refused:
		if err == nil || right {
			t.Errorf("error %v, put back: %t", err, right)
		}
	case stored:
		if err != nil || !right {
			t.Errorf("error %v, put back: %t\n%s%v", err, right, rbacsync.Text(r.Plan), aboutNamespace(r, ns))
		}
	case x.unclear:
		if err != nil || right || !strings.Contains(codes(r), "mark_unclear") {
			t.Errorf("error %v, put back: %t, findings %v", err, right, aboutNamespace(r, ns))
		}
	case x.refused: // all that says whose it is says so: it was given to another source
		return
	case x.annotations[kubename.AnnotationIssuer] != nil:
		if !strings.Contains(codes(r), "other_issuer") {
			t.Errorf("findings %v", r.Findings)
		}
		return
	case x.annotations[kubename.AnnotationCreatedAt] != nil:
		if !strings.Contains(codes(r), "other_created_at") {
			t.Errorf("findings %v", r.Findings)
		}
	case err != nil || !right:
		t.Errorf("error %v, put back: %t\n%s%v", err, right, rbacsync.Text(r.Plan), aboutNamespace(r, ns))
	}
	c.only(t, strings.TrimSuffix(ns, "-world"), ns)
}

// denying is a GitLab that answers each question with 404.
type denying struct{ *gitlab }

func (denying) Exists(context.Context, authz.SourceID) (bool, error) { return false, nil }
func (denying) MemberLevel(context.Context, authz.SourceID, int64) (authz.Level, error) {
	return 0, nil
}

// TestClusterMarksAreKnownAfterTheQuestions: also the plan that follows on GitLab's answers knows a namespace whose marks name
// another source, and could not be put back.
func TestClusterMarksAreKnownAfterTheQuestions(t *testing.T) {
	c := realCluster(t)
	m := &memory{}
	round := func(snap *authz.Snapshot) error {
		_, err := newSyncer(t, syncer.Options{
			Reader: denying{&gitlab{snap: snap}}, Kube: c.own, Memory: m, Settings: rbacsync.Settings{DeleteAfter: time.Hour},
		}).Once(t.Context(), "test")
		return err
	}
	snap := org(3700, "asked")
	snap.Projects[4701] = authz.Project{ID: 4701, Group: 3700, Path: "asked/zz"}
	if err := round(snap); err != nil {
		t.Fatal(err)
	}
	other := authz.GroupID(3700).Label()
	c.patchMeta(t, "asked-world", map[string]any{kubename.LabelSource: other}, map[string]any{kubename.AnnotationSource: other})
	snap = org(3700, "asked") // the project zz is gone, which GitLab is asked about
	if err := round(snap); err == nil {
		t.Error("the cage has let the marks be put back: nothing was tested")
	}
	if gone := c.namespace(t, "asked-zz").Annotations[kubename.AnnotationGoneSince]; gone == "" {
		t.Error("GitLab was not asked about the project: nothing was tested")
	}
	c.only(t, "asked", "asked-world", "asked-zz")
}

// TestClusterForgedMarks: who may annotate a namespace of their own does not get the rights of a source into it, nor keep
// the source from its own namespace.
func TestClusterForgedMarks(t *testing.T) {
	c := realCluster(t)
	snap := org(3600, "forged")
	m := &memory{}
	once(t, newSyncer(t, syncer.Options{Reader: &gitlab{snap: without(snap, 4600, 3)}, Kube: c.own, Memory: m}))
	if _, err := c.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "forgery", Labels: map[string]string{kubename.LabelSource: "project-4601"},
		Annotations: map[string]string{kubename.AnnotationSource: "project-4601", kubename.AnnotationIssuer: snap.Issuer},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	snap.Projects[4601] = authz.Project{ID: 4601, Group: 3600, Path: "forged/second"}
	r := once(t, newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: c.own, Memory: m}))
	if found := aboutNamespace(r, "forgery"); r.Names[authz.ProjectID(4601)] != "forged-second" || len(found) != 0 {
		t.Errorf("namespace %q, findings %v", r.Names[authz.ProjectID(4601)], found)
	}
	if n := c.namespace(t, "forgery"); n.Labels[kubename.LabelManagedBy] != "" {
		t.Errorf("labels of the forgery: %v", n.Labels)
	}
}
