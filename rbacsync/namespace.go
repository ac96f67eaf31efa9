package rbacsync

import (
	"fmt"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// afterwards plans what becomes of a namespace whose source is gone:
//
//	Wanted.DeleteAfter 0 (retain)              kept; a note of an earlier setting is taken off
//	GitLab was not asked, or has it still      kept
//	GitLab said 404, the first time            the time is noted on the namespace
//	GitLab said 404, and the time is over      deleted, if nobody has rights in it any more
//
// The note starts anew whenever the source is seen again or retain is configured, so a namespace is never deleted in
// the round that finds its source gone, nor because of a setting that is an hour old.
func (p *planner) afterwards(ns string, live *Live, why string, rights bool) {
	id := live.Namespace.Source
	note := func(at string) {
		namespace := *live.Namespace
		namespace.GoneSince, namespace.Wrong = at, ""
		p.change(Change{Action: Update, Key: live.Key, Old: live, New: &Object{Key: live.Key, Namespace: &namespace}, Why: why, Step: StepNamespace})
	}
	since, err := time.Parse(time.RFC3339, live.Namespace.GoneSince)
	due := since.Add(p.want.DeleteAfter)
	switch {
	case live.Deleting:
	case p.want.DeleteAfter <= 0 || p.want.Snap.Contains(id):
		p.find("retained", id, "namespace %q is kept without rights: %s", ns, why)
		if live.Namespace.GoneSince != "" {
			note("")
		}
	case err != nil || since.After(p.want.Now):
		p.find("retained", id, "namespace %q is kept without rights until GitLab has confirmed that its source is gone: %s", ns, why)
		if p.want.Gone[id] {
			note(p.want.Now.UTC().Format(time.RFC3339))
		}
	case rights || p.want.Now.Before(due) || !p.want.Gone[id]:
		p.find("deletion_due", id, "namespace %q will be deleted after %s: %s", ns, due.Format(time.RFC3339), why)
	default:
		p.change(Change{
			Action: Delete, Key: live.Key, Old: live, Step: StepDelete,
			Why: fmt.Sprintf("%s, since %s", why, live.Namespace.GoneSince),
		})
	}
}

// ToDelete lists the sources that GitLab has to be asked about before anything is noted or deleted.
func ToDelete(have *Observed, want *Wanted) []authz.SourceID {
	if want.DeleteAfter <= 0 {
		return nil
	}
	var out []authz.SourceID
	for _, l := range have.Live {
		if l.Namespace == nil || l.Deleting || l.Namespace.Issuer != want.Issuer || l.Namespace.Source == (authz.SourceID{}) ||
			want.Snap.Contains(l.Namespace.Source) || want.Untouchable[l.Namespace.Source] != "" {
			continue
		}
		since, err := time.Parse(time.RFC3339, l.Namespace.GoneSince)
		if err != nil || !want.Now.Before(since.Add(want.DeleteAfter)) {
			out = append(out, l.Namespace.Source)
		}
	}
	slices.SortFunc(out, authz.SourceID.Compare)
	return out
}

// Adoption gives an existing namespace to a source. It takes two: the entry in the configuration, which names the
// GitLab id, and an administrator's label app.kubernetes.io/managed-by=gl-k8s-integrator on the namespace, which our
// own ServiceAccount can't set (the cage).
type Adoption struct {
	Namespace string
	Source    authz.SourceID
	Path      string // of Source when the entry was written; another one stops the adoption
}

// adopt puts namespaces that are to be adopted among those their sources have. It returns the sources that must not
// get another namespace meanwhile.
func adopt(list []Adoption, o *Observed, sources []authz.Source, have map[authz.SourceID]string, taken map[string]bool) (wait map[authz.SourceID]bool, findings []authz.Finding) {
	wait = map[authz.SourceID]bool{}
	find := func(code string, id authz.SourceID, format string, args ...any) {
		findings = append(findings, authz.Finding{Code: code, Source: id, Text: fmt.Sprintf(format, args...)})
	}
	for _, a := range list {
		i := slices.IndexFunc(sources, func(s authz.Source) bool { return s.ID == a.Source })
		live := slices.IndexFunc(o.Live, func(l *Live) bool { return l.Key == NamespaceKey(a.Namespace) })
		foreign := o.Foreign[NamespaceKey(a.Namespace)]
		switch {
		case have[a.Source] == a.Namespace: // done
		case have[a.Source] != "":
			find("adopt_refused", a.Source, "namespace %q is not adopted: %s has the namespace %q already", a.Namespace, a.Source, have[a.Source])
		case i < 0:
			find("adopt_refused", a.Source, "namespace %q is not adopted: %s is not in GitLab, or gets no namespace", a.Namespace, a.Source)
		case a.Path != "" && a.Path != sources[i].Path:
			wait[a.Source] = true
			find("adopt_refused", a.Source, "namespace %q is not adopted: the configuration says %s is %q, GitLab says %q", a.Namespace, a.Source, Printable(a.Path), Printable(sources[i].Path))
		case foreign:
			wait[a.Source] = true
			find("adopt_unmarked", a.Source, "namespace %q waits to be adopted for %s: kubectl label namespace %s app.kubernetes.io/managed-by=gl-k8s-integrator", a.Namespace, a.Source, a.Namespace)
		case live < 0:
			find("adopt_refused", a.Source, "namespace %q is not adopted: it does not exist", a.Namespace)
		case !adoptable(o.Live[live]):
			find("adopt_refused", a.Source, "namespace %q is not adopted: it belongs to %s of %q", a.Namespace, o.Live[live].Namespace.Source, o.Live[live].Namespace.Issuer)
		default:
			have[a.Source] = a.Namespace
			delete(taken, a.Namespace)
		}
	}
	return wait, findings
}

// adoptable reports whether a namespace has our mark and nothing else of ours.
func adoptable(l *Live) bool {
	return l.Namespace != nil && !l.Deleting && l.Namespace.Later == "" && l.Namespace.Source == (authz.SourceID{}) && l.Namespace.Issuer == "" && l.Namespace.CreatedAt == ""
}

// AssignNamespaces gives namespaces to sources. known are the namespaces that sources have already.
func AssignNamespaces(have *Observed, sources []authz.Source, issuer string, adoptions []Adoption, reserved []string) (known, names map[authz.SourceID]string, findings []authz.Finding) {
	known, taken := have.Names(issuer)
	wait, findings := adopt(adoptions, have, sources, known, taken)
	findings = append(findings, unclear(have, known, wait)...)
	sources = slices.DeleteFunc(slices.Clone(sources), func(s authz.Source) bool { return wait[s.ID] })
	names, more := authz.AssignNames(sources, known, taken, reserved)
	more = slices.DeleteFunc(more, func(f authz.Finding) bool { // an administrator wrote that it shall be so
		return f.Code == "namespace_name_reserved" && slices.ContainsFunc(adoptions, func(a Adoption) bool {
			return a.Source == f.Source && a.Namespace == known[f.Source]
		})
	})
	return known, names, append(findings, more...)
}
