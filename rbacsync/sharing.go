package rbacsync

import "slices"

// Share has what was written, as the API server has answered, share the memory of what was wanted, where it is the same.
func (l *Live) Share(written *Object) {
	l.Key = written.Key
	if l.Binding != nil && written.Binding != nil && l.Binding.Loss == written.Binding.Loss && l.Binding.Same(written.Binding) {
		l.Binding = written.Binding
	}
	if l.Namespace != nil && written.Namespace != nil && *l.Namespace == *written.Namespace {
		l.Namespace = written.Namespace
	}
}

// sharing makes what is wanted out of what is in the cluster, where it is the same: then it is in memory once. Neither is ever
// changed.
type sharing struct {
	live []*Live // sorted, from the present namespace on
}

func newSharing(have *Observed) *sharing {
	if have == nil {
		return &sharing{}
	}
	return &sharing{live: have.Live}
}

// enter goes on to a namespace, which comes after the one before.
func (s *sharing) enter(ns string) {
	for len(s.live) > 0 && s.live[0].Key.Namespace < ns {
		s.live = s.live[1:]
	}
}

// find returns what the cluster has of an object in the present namespace; nil if that is nothing.
func (s *sharing) find(k Key) *Live {
	for _, l := range s.live {
		if l.Key.Namespace != k.Namespace {
			break
		}
		if l.Key == k {
			return l
		}
	}
	return nil
}

func (s *sharing) namespace(k Key, want Namespace) *Namespace {
	if l := s.find(k); l != nil && l.Namespace != nil && *l.Namespace == want {
		return l.Namespace
	}
	return &want
}

// same returns a binding, as it is in the cluster if that is the same.
func (s *sharing) same(k Key, want *Binding) *Binding {
	if l := s.find(k); l != nil && l.Binding != nil && l.Binding.Loss == want.Loss && l.Binding.Same(want) {
		return l.Binding
	}
	return want
}

// binding returns the binding of a role to users, with their names.
func (s *sharing) binding(k Key, role string, users []int64, names *labels) *Binding {
	text := names.list(users)
	l := s.find(k)
	if l == nil || l.Binding == nil || l.Binding.Members != string(text) { // compared without a copy
		return &Binding{Role: role, Users: users, Members: string(text)}
	}
	if b := l.Binding; b.Role == role && len(b.Others) == 0 && b.Loss == "" && slices.Equal(b.Users, users) {
		return b
	}
	return &Binding{Role: role, Users: users, Members: l.Binding.Members}
}
