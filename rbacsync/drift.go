package rbacsync

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// causeDrift is the cause of rounds that put back what somebody else changed.
const causeDrift = "drift"

// Drift is put back at once, but not for ever at once: somebody who changes a namespace again and again gets it
// back at most driftBurst times in driftWindow, and after that once at the end of it.
const (
	driftBurst  = 20
	driftWindow = time.Minute
)

// fights counts how often namespaces were put back.
type fights map[string]*fight

type fight struct {
	since time.Time
	count int
}

// due splits namespaces into those to put back now and those that have to wait, and returns until when.
func (f fights) due(spaces map[string]bool, now time.Time) (now1, later map[string]bool, until time.Time) {
	now1, later = map[string]bool{}, map[string]bool{}
	for ns := range spaces {
		x := f[ns]
		if x == nil || now.Sub(x.since) >= driftWindow {
			x = &fight{since: now}
			f[ns] = x
		}
		if x.count < driftBurst {
			now1[ns] = true
			continue
		}
		later[ns] = true
		if end := x.since.Add(driftWindow); until.IsZero() || end.Before(until) {
			until = end
		}
	}
	for ns, x := range f {
		if now.Sub(x.since) >= driftWindow && !now1[ns] && !later[ns] {
			delete(f, ns)
		}
	}
	return now1, later, until
}

func (f fights) restored(ns string) {
	if x := f[ns]; x != nil {
		x.count++
	}
}

// tellDrift makes a Kubernetes Event for each object that was put back, in its namespace, so that whoever changed it
// learns why it did not last. An Event that can't be written is not worth a failed round.
func tellDrift(ctx context.Context, client kubernetes.Interface, log *slog.Logger, now time.Time, done []Change) {
	for i, c := range done {
		if i == 50 {
			log.InfoContext(ctx, "more changes were put back than Events are made for", "total", len(done))
			return
		}
		what, why := "changed by somebody else and is put back", "rights here come from GitLab"
		switch c.Action {
		case Create:
			what = "deleted by somebody else and is put back"
		case Delete:
			what = "made by somebody else with our mark and is deleted"
		case Update, Replace:
		}
		if c.Key.Kind == KindTemplate {
			why = "every namespace has it from a template of the cluster's administrators"
		}
		note := fmt.Sprintf("%s was %s: %s", c.Key, what, why)
		if d := c.details(5); len(d) > 0 {
			note += " (" + strings.Join(d, ", ") + ")"
		}
		if len(note) > 1000 { // the API server's limit is 1024 bytes
			note = strings.ToValidUTF8(note[:1000], "")
		}
		ref := corev1.ObjectReference{APIVersion: "v1", Kind: c.Key.Kind.String(), Namespace: c.Key.Namespace, Name: c.Key.Name}
		if c.Key.Kind == KindRoleBinding {
			ref.APIVersion = "rbac.authorization.k8s.io/v1"
		}
		if x := c.extra(); x != nil {
			ref.APIVersion, ref.Kind = x.Kind.ToAPIVersionAndKind()
			ref.Name = x.Name
		}
		if c.Old != nil {
			ref.UID = c.Old.UID
		}
		tellOne(ctx, client, log, now, ref, note)
	}
}

func tellOne(ctx context.Context, client kubernetes.Interface, log *slog.Logger, now time.Time, ref corev1.ObjectReference, note string) {
	at := metav1.NewTime(now)
	_, err := client.CoreV1().Events(ref.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "gl-k8s-integrator-", Namespace: ref.Namespace},
		InvolvedObject: ref, Reason: "DriftRestored", Message: note, Type: corev1.EventTypeWarning,
		Source: corev1.EventSource{Component: "gl-k8s-integrator"}, FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		log.DebugContext(ctx, "no Event about drift", "namespace", ref.Namespace, "error", err)
	}
}

// extra returns what the change makes of an object from a template, or what was there before; nil for other kinds.
func (c Change) extra() *Extra {
	switch {
	case c.New != nil && c.New.Extra != nil:
		return c.New.Extra
	case c.Old != nil:
		return c.Old.Extra
	}
	return nil
}

// remembered is what should be in the cluster, by namespace, so that a part of it can be replaced.
type remembered struct {
	plain   Wanted // without Objects
	objects map[string][]Object
}

func remember(w *Wanted) *remembered {
	r := &remembered{plain: *w, objects: make(map[string][]Object, len(w.Paths))}
	r.plain.Objects, r.plain.Gone = nil, nil // what GitLab answered counts in its own round only
	for rest := w.Objects; len(rest) > 0; {
		ns := rest[0].Key.Namespace
		r.objects[ns], rest = cut(rest, func(o Object) bool { return o.Key.Namespace == ns })
	}
	return r
}

// within returns the part that is in these namespaces.
func (r *remembered) within(spaces map[string]bool) *Wanted {
	part := r.plain
	for _, ns := range sortedKeys(spaces) {
		part.Objects = append(part.Objects, r.objects[ns]...)
	}
	return &part
}

// replace takes in what a round wants in these namespaces; objects from templates stay, it says nothing about them.
func (r *remembered) replace(part *Wanted, spaces map[string]bool) {
	for ns := range spaces {
		own := slices.Clone(part.inside(ns))
		for _, o := range r.objects[ns] {
			if o.Extra != nil {
				own = append(own, o)
			}
		}
		slices.SortFunc(own, func(a, b Object) int { return a.Key.Compare(b.Key) })
		r.objects[ns] = own
	}
	r.plain.Untouchable, r.plain.Users, r.plain.Now, r.plain.snap = part.Untouchable, part.Users, part.Now, part.snap
	maps.Copy(r.plain.Paths, part.Paths)
}
