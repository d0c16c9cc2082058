def checked(l): return l
