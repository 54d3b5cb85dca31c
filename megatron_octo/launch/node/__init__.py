"""The job's first minute: are its nodes fit for it?"""
