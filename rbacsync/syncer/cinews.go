package syncer

import (
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// ciNews is what passes know of the namespaces that have, or lose, CI credentials: of all, or of those in their scopes. It belongs to
// one goroutine, which may hand it on; what its namespaces refer to is never changed.
type ciNews struct {
	list   []ci.Namespace // by name
	scope  rbacsync.Scope // nil: all
	urgent int64          // the number of the last by which a token may have to die, see urgentCount
}

// noCINews is what is known before the first pass.
func noCINews() ciNews { return ciNews{scope: rbacsync.Scope{}} }

// readers returns the same for who asks alone who can read a token.
func (n ciNews) readers() ciNews {
	out := ciNews{list: slices.Clone(n.list), scope: n.scope}
	for i := range out.list {
		out.list[i].Lost = nil
	}
	return out
}

// take takes in what was found later. It costs what that has, and not what all have. Who could read a token by what was known before,
// and still can't, stays lost; they may be named twice.
func (n *ciNews) take(later ciNews) {
	urgent := max(n.urgent, later.urgent)
	if later.scope == nil {
		before := n.list
		*n = later
		for i := range before {
			if at, known := ci.Find(n.list, before[i].Name); known && len(before[i].Lost) > 0 {
				n.list[at].Lost = stillLost(&n.list[at], before[i].Lost)
			}
		}
		n.urgent = urgent
		return
	}
	n.urgent = urgent
	gone := maps.Clone(later.scope)
	for _, x := range later.list {
		delete(gone, x.Name)
		if at, known := ci.Find(n.list, x.Name); known {
			x.Lost = stillLost(&x, n.list[at].Lost)
			n.list[at] = x
		} else {
			n.list = slices.Insert(n.list, at, x)
		}
	}
	for ns := range gone {
		if at, known := ci.Find(n.list, ns); known {
			n.list = slices.Delete(n.list, at, at+1)
		}
	}
	n.scope = n.scope.Union(later.scope)
}

// stillLost adds to those who lost the right to read a namespace's token those who lost it before and don't have it.
func stillLost(n *ci.Namespace, before []int64) []int64 {
	lost := slices.Clip(n.Lost)
	for _, id := range before {
		if _, reads := slices.BinarySearch(n.Readers, id); !reads {
			lost = append(lost, id)
		}
	}
	return lost
}

// takeWaiting takes in what waits in a channel.
func (n *ciNews) takeWaiting(in <-chan ciNews) {
	select {
	case later := <-in:
		n.take(later)
	default:
	}
}

// offer puts news into a channel of size 1, with what waits there. Each channel has one caller.
func (n ciNews) offer(to chan ciNews) {
	select {
	case waiting := <-to:
		waiting.take(n)
		n = waiting
	default:
	}
	to <- n
}

// credentialsAnd returns what a pass and one after it know of CI credentials together.
func (p *pass) credentialsAnd(later *pass) []ci.Namespace {
	news := ciNews{list: p.credentials, scope: p.scope}
	news.take(ciNews{list: later.credentials, scope: later.scope})
	return news.list
}
