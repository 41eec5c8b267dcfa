package search

func crashChild() {}
