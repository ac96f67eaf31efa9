package syncer

import (
	"maps"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// marks remembers the Marks of the namespaces of one GitLab (docs/adr/0092). The zero value remembers nothing.
type marks struct {
	issuer string
	known  map[string]rbacsync.Mark // by the name of the namespace
	fresh  map[string]bool          // written since learn, which did not see them yet
	shared bool                     // somebody else has known, which is copied before it is changed
}

// recall takes in what was stored, where it is of the same GitLab and nothing newer is known.
func (m *marks) recall(st *Stored) {
	if m.known == nil || m.issuer == "" {
		m.issuer, m.known = st.Snapshot.Issuer, map[string]rbacsync.Mark{}
	}
	if m.issuer != st.Snapshot.Issuer {
		return
	}
	m.own()
	for ns, mark := range st.Marks {
		if _, ok := m.known[ns]; !ok {
			m.known[ns] = mark
		}
	}
}

// of returns what is known of the namespaces of a GitLab. What it returns stays as it is.
func (m *marks) of(issuer string) map[string]rbacsync.Mark {
	if m.issuer != issuer {
		return nil
	}
	m.shared = true
	return m.known
}

func (m *marks) own() {
	if m.shared {
		m.known, m.shared = maps.Clone(m.known), false
	}
}

// wrote takes in what the API server answered to a write of ours.
func (m *marks) wrote(l *rbacsync.Live) {
	if l.Namespace == nil || l.Namespace.Wrong != "" || l.Namespace.Source == (authz.SourceID{}) {
		return
	}
	if m.issuer != l.Namespace.Issuer {
		return
	}
	m.own()
	m.known[l.Key.Name] = rbacsync.Mark{UID: l.UID, Source: l.Namespace.Source, CreatedAt: l.Namespace.CreatedAt}
	m.fresh[l.Key.Name] = true
}

// learn takes in the namespaces of sources in a whole observation that was identified, and forgets those that are gone.
func (m *marks) learn(have *rbacsync.Observed, issuer string, names map[authz.SourceID]string) {
	old, was := m.known, m.issuer
	m.issuer, m.known, m.shared = issuer, make(map[string]rbacsync.Mark, len(names)), false
	for _, l := range have.Live {
		switch {
		case l.Namespace != nil && l.Namespace.Later != "": // what it was is known, not what it is
			if mark, ok := old[l.Key.Name]; ok && was == issuer && mark.UID == l.UID {
				m.known[l.Key.Name] = mark
			}
		case l.Namespace == nil || l.Namespace.Issuer != issuer || len(l.Doubt) > 0 || l.Namespace.Source == (authz.SourceID{}):
		case names[l.Namespace.Source] == l.Key.Name || l.Known:
			m.known[l.Key.Name] = rbacsync.Mark{UID: l.UID, Source: l.Namespace.Source, CreatedAt: l.Namespace.CreatedAt}
		}
	}
	for ns := range m.fresh {
		if _, ok := m.known[ns]; !ok && was == issuer {
			m.known[ns] = old[ns]
		}
	}
	m.fresh = map[string]bool{}
}

// identify is the function of that name, with the Marks that are known.
func (m *marks) identify(have *rbacsync.Observed, snap *authz.Snapshot) *rbacsync.Observed {
	known := m.known
	if m.issuer != snap.Issuer {
		known = nil
	}
	return rbacsync.Identify(have, known, snap)
}
