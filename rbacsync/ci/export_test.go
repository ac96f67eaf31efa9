package ci

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Configure gives p another configuration and leaves it what it remembers, as no caller can: a test sees that by what is
// remembered nothing of a change is missed.
func Configure(p *Provisioner, c Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c = c.complete()
	now := c.configured()
	if now.cluster.URL != p.c.Cluster.URL || string(now.cluster.CA) != string(p.c.Cluster.CA) {
		p.facts.cluster = now.cluster
	}
	if before := p.c.configured(); string(now.agentCA) != string(before.agentCA) {
		p.facts.agentCA = now.agentCA
	}
	p.c = c
}

// Status returns what is known of one delivery.
func (p *Provisioner) Status(namespace string, project int64) rbacsync.DeliveryStatus {
	return p.Statuses(nil).Of(namespace, project)
}

// Saw is what a watch would tell, at once.
func (p *Provisioner) Saw(s *corev1.Secret, deleted bool) bool {
	return p.disturbed(s, deleted)
}

// Missed is what a watch would do that begins again after another one.
func (p *Provisioner) Missed() bool { return p.miss(p.c.Now()) }

// SettleIn changes how long a Board takes a watch to tell all that there is.
func SettleIn(b *Board, d time.Duration) { b.settle = d }
