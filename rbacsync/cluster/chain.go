package cluster

import (
	"context"
	"fmt"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// chain writes the changes of one namespace between whose bindings people move, one after the other. Who should have
// the same right by another binding, or a stronger one, leaves the old one only when the other is written: if that
// fails they stay, and the change counts as failed. All others lose at once what they should.
func (a *applier) chain(ctx context.Context, changes []rbacsync.Change) {
	done := map[rbacsync.Key]error{} // what became of those that were tried
	var open []rbacsync.Change
	for _, c := range changes {
		users, _ := c.Waiting(done)
		if len(users) == 0 {
			done[c.Key] = a.write(ctx, c)
			a.note(ctx, c, done[c.Key])
			continue
		}
		a.mu.Lock()
		a.answers[c.Key] = nil
		a.mu.Unlock()
		if done[c.Key] = a.writePart(ctx, c.Keeping(users)); done[c.Key] != nil {
			a.count(c, done[c.Key])
			continue
		}
		open = append(open, c)
	}
	for _, c := range open {
		a.finish(ctx, c, done)
	}
}

// finish takes out of a binding who stayed in it until now, as far as they are in another one.
func (a *applier) finish(ctx context.Context, c rbacsync.Change, done map[rbacsync.Key]error) {
	rest, cause := c.Waiting(done)
	next := c.Keeping(rest)
	a.mu.Lock()
	live := a.answers[c.Key]
	delete(a.answers, c.Key)
	a.mu.Unlock()
	if live != nil { // else its first write would have changed nothing
		next.Old = live
	}
	err := a.writePart(ctx, next)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d people stay in it until they have their other binding: %w", len(rest), cause)
		a.logWrite(ctx, c, err)
	} else if err != nil && live == nil {
		next.New = nil
	} else if err != nil {
		next.New = &live.Object
	}
	if written := next.New; err != nil && written != nil && !written.Binding.Same(c.Old.Binding) {
		part := c
		part.New = written
		a.mu.Lock()
		a.report.partly = append(a.report.partly, part)
		a.mu.Unlock()
	}
	a.count(c, err)
}

// writePart writes what there is to write of a change.
func (a *applier) writePart(ctx context.Context, c rbacsync.Change) error {
	if c.New.Binding.Same(c.Old.Binding) {
		return nil
	}
	err := a.write(ctx, c)
	a.logWrite(ctx, c, err)
	return err
}
