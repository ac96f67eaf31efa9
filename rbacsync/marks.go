package rbacsync

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Mark is by what a namespace of ours is known: whoever changes its labels and annotations does not change its UID.
type Mark struct {
	UID       types.UID
	Source    authz.SourceID
	CreatedAt string // Namespace.CreatedAt
}

// Identify returns what was observed with each namespace that is known as that of its source, whatever somebody made of
// its labels and annotations; what is wrong with them is in Namespace.Wrong, so that the plan puts it right. One that has no
// label or annotation of ours any more was given up, and is not recognised. What is not known is believed as far as its
// label and its annotation agree; else it is in doubt. have is not changed.
func Identify(have *Observed, known map[string]Mark, snap *authz.Snapshot) *Observed {
	out := *have
	if out.Live, out.Unmarked = slices.Clone(have.Live), nil; len(have.Unmarked) > 0 {
		out.Foreign = maps.Clone(have.Foreign)
	}
	unknown := map[string]bool{}
	for i, l := range have.Live {
		if l.Namespace == nil {
			continue
		}
		n := recognise(l, known, snap)
		switch {
		case n != nil:
		case l.Namespace.Later != "":
			if mark, ok := known[l.Key.Name]; ok && mark.UID == l.UID && !slices.Contains(l.Doubt, mark.Source) {
				n = new(Live)
				*n, n.Doubt = *l, append(slices.Clone(l.Doubt), mark.Source)
			}
		case l.Namespace.Issuer == "" && l.Namespace.Source != (authz.SourceID{}):
			n = doubted(l, "annotation "+kubename.AnnotationIssuer+` ""`)
		case len(l.Doubt) > 0 && l.Namespace.Issuer != "" && l.Namespace.Issuer != snap.Issuer: // another GitLab's
			n = new(Live)
			*n, n.Doubt = *l, nil
		}
		if n != nil {
			out.Live[i] = n
		}
	}
	for _, l := range have.Unmarked {
		mark := "label " + kubename.LabelManagedBy
		if n := recognise(l, known, snap); n != nil {
			namespace := *n.Namespace
			namespace.Wrong = strings.TrimSuffix(mark+"; "+namespace.Wrong, "; ")
			n.Namespace = &namespace
			out.Live = append(out.Live, n)
			delete(out.Foreign, n.Key)
			continue
		}
		unknown[l.Key.Name] = true
		if len(known) == 0 && (l.Namespace.Issuer == "" || l.Namespace.Issuer == snap.Issuer) { // else somebody else's, who may write what they want
			out.Unmarked = append(out.Unmarked, doubted(l, mark))
		}
	}
	if len(unknown) > 0 { // what templates made there is as little ours as the namespace
		out.Live = slices.DeleteFunc(out.Live, func(l *Live) bool { return l.FromTemplate != nil && unknown[l.Key.Namespace] })
	}
	slices.SortFunc(out.Live, func(a, b *Live) int { return a.Key.Compare(b.Key) })
	return &out
}

// recognise returns a namespace as the one that it is known as; nil when it is not known, or was given up.
func recognise(l *Live, known map[string]Mark, snap *authz.Snapshot) *Live {
	mark, ok := known[l.Key.Name]
	if !ok || mark.UID == "" || mark.UID != l.UID || adoptable(l) || l.Namespace.Later != "" {
		return nil
	}
	n, namespace := *l, *l.Namespace
	n.Known, n.Doubt = true, nil
	var wrong []string
	if namespace.Wrong != "" {
		wrong = append(wrong, namespace.Wrong)
	}
	if namespace.Source != mark.Source && len(l.Doubt) == 0 {
		wrong = append(wrong, fmt.Sprintf("label %s %q", kubename.LabelSource, markOf(namespace.Source)))
	}
	if namespace.Issuer != snap.Issuer {
		wrong = append(wrong, fmt.Sprintf("annotation %s %q", kubename.AnnotationIssuer, namespace.Issuer))
	}
	if namespace.CreatedAt != mark.CreatedAt && mark.CreatedAt != "" && mark.CreatedAt == createdAt(born(snap, mark.Source)) {
		wrong = append(wrong, fmt.Sprintf("annotation %s %q", kubename.AnnotationCreatedAt, namespace.CreatedAt))
		namespace.CreatedAt = mark.CreatedAt
	}
	namespace.Source, namespace.Issuer, namespace.Wrong = mark.Source, snap.Issuer, strings.Join(wrong, "; ")
	if namespace != *l.Namespace { // of nearly all nothing is wrong
		changed := namespace
		n.Namespace = &changed
	}
	return &n
}

// born returns GitLab's created_at of a source, zero when it is not known.
func born(s *authz.Snapshot, id authz.SourceID) time.Time {
	switch id.Kind {
	case authz.GroupSource:
		return s.Groups[id.ID].CreatedAt
	case authz.ProjectSource:
		return s.Projects[id.ID].CreatedAt
	case authz.UserSource:
		return s.Users[id.ID].CreatedAt
	}
	return time.Time{}
}

// doubted returns a namespace of which it is not clear whose it is.
func doubted(l *Live, wrong string) *Live {
	n, namespace := *l, *l.Namespace
	n.Namespace = &namespace
	if len(n.Doubt) == 0 {
		n.Doubt = []authz.SourceID{namespace.Source}
	}
	namespace.Wrong = strings.TrimSuffix(wrong+"; "+namespace.Wrong, "; ")
	return &n
}

// unclear says of which namespaces it is not clear whose they are, and makes the sources that may have them, and have no
// other one, wait.
func unclear(o *Observed, have map[authz.SourceID]string, wait map[authz.SourceID]bool) []authz.Finding {
	var out []authz.Finding
	for _, l := range slices.Concat(o.Live, o.Unmarked) {
		if l.Namespace != nil && l.Namespace.Later != "" {
			for _, id := range l.Doubt {
				wait[id] = true
			}
			out = append(out, authz.Finding{Code: "mark_newer", Text: fmt.Sprintf(
				"a later version of gl-k8s-integrator has marked namespace %q (annotation %s: %s, and this version knows %d): it and all that is in it are left as they are, and what it may belong to gets no other one. Run that version again",
				l.Key.Name, kubename.AnnotationFormat, Printable(l.Namespace.Later), kubename.MarkFormat)})
			continue
		}
		for _, id := range l.Doubt {
			if have[id] != "" {
				continue
			}
			wait[id] = true
			out = append(out, authz.Finding{Code: "mark_unclear", Source: id, Text: fmt.Sprintf(
				"somebody changed the marks of namespace %q (%s), and it may be that of %s: it is left as it is, and %s gets no other one. If it is, set %s=%s as label and as annotation, the label %s=%s and the annotation %s=URL-of-GitLab; else take all of them off it",
				l.Key.Name, Printable(l.Namespace.Wrong), id, id, kubename.LabelSource, id.Label(), kubename.LabelManagedBy, kubename.ManagedBy, kubename.AnnotationIssuer)})
		}
	}
	return out
}
